"""Group sequence policy optimisation: GRPO with one ratio for the whole answer, since the reward is the whole answer's.

    L = - mean_n min( s_n A_n, clip(s_n, 1 - eps_low, 1 + eps_high) A_n ),   s_n = ( pi(y_n|x) / pi_old(y_n|x) )^(1/|y_n|)

with A_n as in `grpo`. Sign: minimised. Reduction: mean over answers. s is a geometric mean over tokens, hence so near 1
that the clip is three orders of magnitude narrower than GRPO's. No KL penalty. TRL:
`importance_sampling_level="sequence"`. Source: Zheng et al. 2025 (arXiv:2507.18071), equations 5 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fivefold.align.losses._base import Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import Rollout, Sampled, clipped, group_advantages, rollout_metrics

KIND: Kind = "rollout"
REDUCTION: Reduction = "item"
REFERENCE = False
LEAST_SAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of GSPO."""

    clip_low: float = 3e-4
    """eps_low of section 5.1."""
    clip_high: float = 4e-4
    """eps_high of section 5.1."""


def advantages(sampled: Sampled, config: Config) -> Tensor:
    """Rewards normalised within each group, at every token [N, T]."""
    return sampled.over_tokens(group_advantages(sampled.rewards, sampled.scored, scale=True))


def loss(rollout: Rollout, config: Config) -> LossOutput:
    """GSPO loss. An answer's advantage is the one at its first token."""
    ratio = (rollout.log_ratio().sum(-1) / rollout.mask.sum(-1)).exp()
    gain = clipped(ratio, rollout.advantages[:, 0], config.clip_low, config.clip_high)
    return LossOutput(-gain.mean(), rollout_metrics(rollout, ratio, config.clip_low, config.clip_high))
