"""REINFORCE leave-one-out: each sample's baseline is the mean reward of the other samples of its prompt.

    L = - mean_n min( s_n A_n, clip(s_n, 1 - eps, 1 + eps) A_n ),   s_n = pi(y_n|x) / pi_old(y_n|x)
    A_n = R_n - mean of the other R of its group,   R = reward - kl sum_t ( log pi_old - log pi_ref )_t

The whole answer is one action. Sign: minimised. Reduction: mean over answers. At the policy that sampled s_n = 1 and the
gradient is the paper's REINFORCE gradient - A_n grad log pi(y_n|x); the clip, which TRL's RLOOTrainer has, matters only
when samples are used more than once. Source: Ahmadian et al. 2024 (arXiv:2402.14740), section 2.3; Kool et al. 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fivefold.align.losses._base import Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import Rollout, Sampled, clipped, leave_one_out, rollout_metrics

KIND: Kind = "rollout"
REDUCTION: Reduction = "item"
REFERENCE = True
LEAST_SAMPLES = 2
KL_IN_REWARD = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of RLOO."""

    clip: float = 0.2
    """eps: how far the ratio of whole answers may leave 1 before its gradient stops."""


def advantages(sampled: Sampled, config: Config) -> Tensor:
    """Rewards with their KL penalty, less the mean of the group's others, at every token [N, T]."""
    return sampled.over_tokens(leave_one_out(sampled.shaped(), sampled.scored))


def loss(rollout: Rollout, config: Config) -> LossOutput:
    """RLOO loss. An answer's advantage is the one at its first token."""
    ratio = rollout.log_ratio().sum(-1).exp()
    gain = clipped(ratio, rollout.advantages[:, 0], config.clip, config.clip)
    return LossOutput(-gain.mean(), rollout_metrics(rollout, ratio, config.clip, config.clip))
