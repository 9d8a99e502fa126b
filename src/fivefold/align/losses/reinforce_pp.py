"""REINFORCE++: PPO's clip and token-wise KL penalty without a critic, advantages normalised over the whole batch.

    L = - mean_token min( r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t )
    A_t = normalise over the batch of [ R - kl sum_(i >= t) ( log pi_old - log pi_ref )_i ]

with r_t as in `ppo`. Sign: minimised. Reduction: mean over tokens. One sample a prompt is enough; with several, `group`
subtracts the group's mean reward first (the paper's REINFORCE++-baseline). Normalising over the batch rather than the
group does not overweight prompts on which rewards hardly differ. Source: Hu 2025 (arXiv:2501.03262), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fivefold.align.losses._base import Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import (
    Rollout,
    Sampled,
    clipped,
    group_advantages,
    mean_of_tokens,
    rollout_metrics,
    whitened,
)

KIND: Kind = "rollout"
REDUCTION: Reduction = "token"
REFERENCE = True
KL_IN_REWARD = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of REINFORCE++."""

    clip: float = 0.2
    """eps: how far the ratio may leave 1 before its gradient stops."""
    group: bool = False
    """Subtract the mean reward of the prompt's samples first."""


def advantages(sampled: Sampled, config: Config) -> Tensor:
    """Reward less the KL penalty still to come, normalised over all tokens of the round [N, T]."""
    rewards = group_advantages(sampled.rewards, sampled.scored, scale=False) if config.group else sampled.rewards
    to_come = sampled.token_kl().flip(1).cumsum(1).flip(1)
    used = sampled.mask & sampled.kept()[:, None]
    final = torch.where(sampled.scored, rewards, 0.0).flatten()[:, None]
    return whitened(final - sampled.kl * to_come, used)


def loss(rollout: Rollout, config: Config) -> LossOutput:
    """REINFORCE++ loss."""
    ratio = rollout.log_ratio().exp()
    gain = clipped(ratio, rollout.advantages, config.clip, config.clip)
    value = -mean_of_tokens(gain, rollout.mask)
    return LossOutput(value, rollout_metrics(rollout, ratio, config.clip, config.clip))
