"""DAPO: GRPO for long reasoning: a higher upper clip, every token the same weight, no KL penalty.

    L = - sum_nt min( r_t A_n, clip(r_t, 1 - eps_low, 1 + eps_high) A_n ) / sum_n |y_n|

with r_t as in `ppo` and A_n as in `grpo`. Sign: minimised. Reduction: mean over all tokens of the minibatch (the paper
divides within each prompt's group; TRL's `dapo` over the whole batch). The other two parts stand elsewhere: groups whose
rewards are all equal are sampled again (`FILTER`, `_rollout.informative`), and answers that come near the length limit
lose reward gradually (`align.rewards.overlong`). Source: Yu et al. 2025 (arXiv:2503.14476), equations 8 to 13.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fivefold.align.losses._base import Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import (
    Rollout,
    Sampled,
    clipped,
    group_advantages,
    mean_of_tokens,
    rollout_metrics,
)

KIND: Kind = "rollout"
REDUCTION: Reduction = "token"
REFERENCE = False
LEAST_SAMPLES = 2
FILTER = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of DAPO."""

    clip_low: float = 0.2
    """eps_low: how far below 1 the ratio may fall."""
    clip_high: float = 0.28
    """eps_high: how far above 1 it may rise; higher leaves unlikely tokens room to grow."""


def advantages(sampled: Sampled, config: Config) -> Tensor:
    """Rewards normalised within each group, at every token [N, T]."""
    return sampled.over_tokens(group_advantages(sampled.rewards, sampled.scored, scale=True))


def loss(rollout: Rollout, config: Config) -> LossOutput:
    """DAPO loss."""
    ratio = rollout.log_ratio().exp()
    gain = clipped(ratio, rollout.advantages, config.clip_low, config.clip_high)
    value = -mean_of_tokens(gain, rollout.mask)
    return LossOutput(value, rollout_metrics(rollout, ratio, config.clip_low, config.clip_high))
