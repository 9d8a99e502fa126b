"""Odds-ratio preference optimisation: SFT on the chosen answer plus a push on the odds against the rejected one.

    L = mean_n [ - log pi(y_w|x) / |y_w|  -  lambda log sigmoid( log odds(y_w|x) - log odds(y_l|x) ) ]
    odds(y|x) = p / (1 - p),   p = exp( log pi(y|x) / |y| )

Sign: minimised. No reference. Reduction: mean over pairs; p is the geometric mean over tokens. TRL's likelihood term is
the mean over all tokens of the batch, prompts included, so its value differs while the odds term agrees. log(1 - p) is
computed as log(-expm1(.)), which stays exact for p near 1. Source: Hong et al. 2024 (arXiv:2403.07691), equations 6, 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction, preference_metrics

KIND: Kind = "pair"
REDUCTION: Reduction = "item"
REFERENCE = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the ORPO loss."""

    weight: float = 0.1
    """Lambda: weight of the odds-ratio term (TRL calls it beta)."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """ORPO loss of N pairs."""
    mean_w, mean_l = chosen.mean(), rejected.mean()
    log_odds = mean_w - mean_l - (log1mexp(mean_w) - log1mexp(mean_l))
    value = (-mean_w - config.weight * logsigmoid(log_odds)).mean()
    metrics = preference_metrics(mean_w, mean_l)
    return LossOutput(value, {**metrics, "nll": -mean_w.detach().mean().item()})


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0."""
    return torch.log(-torch.expm1(x.clamp(max=-1e-7)))
