"""Proximal policy optimisation, the policy's part: a clipped step along advantages from a critic.

    L = - mean_token min( r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t ),   r_t = pi(y_t|...) / pi_old(y_t|...)

A_t are generalised advantage estimates of rewards that carry the KL penalty token by token, whitened over the round's
tokens. Sign: minimised. Reduction: mean over tokens, as in TRL and InstructGPT's code. The critic's part is `ppo_value`,
the penalty's weight is controlled by `align.kl`. Source: Schulman et al. 2017 (arXiv:1707.06347), equation 7; Schulman et
al. 2015 (GAE, arXiv:1506.02438); Ziegler et al. 2019 (arXiv:1909.08593); Huang et al. 2024 (arXiv:2403.17031) on details.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fivefold.align.losses._base import Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import (
    Rollout,
    Sampled,
    clipped,
    gae,
    mean_of_tokens,
    rollout_metrics,
    token_rewards,
    whitened,
)
from fivefold.errors import UsageError

KIND: Kind = "rollout"
REDUCTION: Reduction = "token"
REFERENCE = True
CRITIC = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of PPO."""

    clip: float = 0.2
    """eps: how far the ratio may leave 1 before its gradient stops."""
    gamma: float = 1.0
    """Discount of later rewards."""
    lam: float = 0.95
    """GAE's lambda: 1 is the return less the value, 0 the one-step error."""
    whiten: bool = True
    """Give the advantages mean 0 and variance 1 over the round."""


def estimates(sampled: Sampled, config: Config) -> Tensor:
    """Advantages before whitening, [N, T]; added to the values they are the critic's targets."""
    if sampled.values is None:
        raise UsageError("PPO needs a critic's values")
    return gae(token_rewards(sampled), sampled.values, _used(sampled), config.gamma, config.lam)


def advantages(sampled: Sampled, config: Config) -> Tensor:
    """Generalised advantage estimates [N, T]; zero where an answer has no reward."""
    found = estimates(sampled, config)
    return whitened(found, _used(sampled)) if config.whiten else found


def _used(sampled: Sampled) -> Tensor:
    return sampled.mask & sampled.kept()[:, None]


def loss(rollout: Rollout, config: Config) -> LossOutput:
    """Clipped policy loss."""
    ratio = rollout.log_ratio().exp()
    gain = clipped(ratio, rollout.advantages, config.clip, config.clip)
    value = -mean_of_tokens(gain, rollout.mask)
    return LossOutput(value, rollout_metrics(rollout, ratio, config.clip, config.clip))
