"""Dr. GRPO: GRPO done right, without its two biases (towards long wrong answers, and towards easy or hard prompts).

    L = - mean_n ( 1 / T_max ) sum_t min( r_t A_n, clip(r_t, 1 - eps, 1 + eps) A_n ),   A_n = R_n - mean_group R

with r_t as in `ppo`. Sign: minimised. Reduction: the sum over tokens is divided by a constant, the longest answer that
could have been sampled, not by the answer's own length; the reward is not divided by its standard deviation. TRL:
`loss_type="dr_grpo", scale_rewards=False`. Source: Liu et al. 2025 (arXiv:2503.20783), section 3.2.
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
    """Options of Dr. GRPO."""

    clip: float = 0.2
    """eps: how far the ratio may leave 1 before its gradient stops."""


def advantages(sampled: Sampled, config: Config) -> Tensor:
    """Rewards less their group's mean, at every token [N, T]."""
    return sampled.over_tokens(group_advantages(sampled.rewards, sampled.scored, scale=False))


def loss(rollout: Rollout, config: Config) -> LossOutput:
    """Dr. GRPO loss."""
    ratio = rollout.log_ratio().exp()
    gain = clipped(ratio, rollout.advantages, config.clip, config.clip) * rollout.mask
    value = -gain.sum(-1).mean() / rollout.length
    return LossOutput(value, rollout_metrics(rollout, ratio, config.clip, config.clip))
