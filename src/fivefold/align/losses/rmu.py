"""Representation misdirection for unlearning: push states on the forgotten topic to a random direction, keep the rest.

    L = mean_tokens(forget) mean_d ( h - c u )_d^2  +  alpha mean_tokens(retain) mean_d ( h - h_0 )_d^2

with u a fixed random unit vector (`direction`), h the trained and h_0 the original residual stream at one layer. Sign:
minimised; at least 0. Reduction: mean over tokens and dimensions, as in the paper's code (the paper writes the squared
norm, which is D times as large). Source: Li et al. 2024 (WMDP, arXiv:2403.03218), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fivefold.align.losses._base import Activations, Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import mean_of_tokens

KIND: Kind = "activations"
REDUCTION: Reduction = "token"
REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of RMU."""

    steering: float = 20.0
    """c: length of the vector that forgotten states are pushed to; larger for wider models."""
    alpha: float = 100.0
    """Weight of the retained states."""
    seed: int = 0
    """Fixes the direction."""


def direction(width: int, seed: int) -> Tensor:
    """The unit vector u [D]: uniform in [0, 1) per dimension, then normalised, as in the paper's code."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unit: Tensor = drawn / drawn.norm()
    return unit


def loss(forget: Activations, retain: Activations, config: Config, *, progress: float = 0.0) -> LossOutput:
    """RMU loss; `progress` is not used."""
    goal = config.steering * direction(forget.trained.shape[-1], config.seed).to(forget.trained)
    pushed = mean_of_tokens((forget.trained - goal).square().mean(-1), forget.mask)
    kept = mean_of_tokens((retain.trained - retain.original).square().mean(-1), retain.mask)
    return LossOutput(pushed + config.alpha * kept, {"forget": pushed.item(), "retain": kept.item()})
