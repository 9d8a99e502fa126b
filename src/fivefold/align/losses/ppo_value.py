"""Proximal policy optimisation, the critic's part: regress values to returns, no further from the old ones than a clip.

    L = 1/2 mean_token max( (V_t - R_t)^2, ( clip(V_t, V_old - eps, V_old + eps) - R_t )^2 )

with R_t = A_t + V_old the returns that GAE estimates. Sign: minimised; at least 0. Reduction: mean over tokens. TRL and
the PPO code that it follows have the same factor of one half and the same clip. Source: Schulman et al. 2017
(arXiv:1707.06347), equation 9, with the clip of Schulman et al.'s code as described by Engstrom et al. 2020
(arXiv:2005.12729), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fivefold.align.losses._base import Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import mean_of_tokens

KIND: Kind = "values"
REDUCTION: Reduction = "token"
REFERENCE = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the critic's loss."""

    clip: float = 0.2
    """eps: how far a value may move in one round, in units of the reward."""


def loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, config: Config) -> LossOutput:
    """Clipped value loss of values [N, T] against returns [N, T]."""
    near = old + (values - old).clamp(-config.clip, config.clip)
    worse = torch.maximum((values - returns).square(), (near - returns).square())
    value = 0.5 * mean_of_tokens(worse, mask)
    seen = returns[mask]
    left = (seen - values.detach()[mask]).var(correction=0) / seen.var(correction=0).clamp(min=1e-8)
    return LossOutput(value, {"value_loss": value.item(), "unexplained": left.item()})
