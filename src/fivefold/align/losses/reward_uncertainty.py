"""Reward model that knows its doubt: each answer's reward is a normal distribution, and pairs are compared by it.

    L = - mean_n log Phi( (mu_w - mu_l) / sqrt( sigma_w^2 + sigma_l^2 ) ),   sigma = softplus(s) + 1e-3

with the head's two outputs (mu, s) and Phi the standard normal distribution function. Sign: minimised. Reduction: mean
over pairs. Where annotators disagree for reasons that the data hides, sigma grows instead of mu being wrong for
everyone. The scale of mu is set by sigma alone, so compare rewards of one model only. Source: Siththaranjan et al. 2023
(distributional preference learning, arXiv:2312.08358), the mean-and-variance model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fivefold.align.losses._base import Kind, LossOutput, Reduction, Scores, preference_metrics
from fivefold.errors import UsageError

KIND: Kind = "scores"
REDUCTION: Reduction = "item"
REFERENCE = False
HEADS = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """The loss of the uncertain reward model has no options."""


def loss(chosen: Scores, rejected: Scores, config: Config) -> LossOutput:
    """Probit loss of N pairs from heads (mu, s)."""
    if chosen.values.shape[-1] != HEADS:
        raise UsageError("the uncertain reward model has two outputs", expected=2, got=chosen.values.shape[-1])
    (mu_w, sigma_w), (mu_l, sigma_l) = gaussian(chosen.values), gaussian(rejected.values)
    z = (mu_w - mu_l) / (sigma_w.square() + sigma_l.square()).sqrt()
    metrics = preference_metrics(mu_w, mu_l)
    return LossOutput(-torch.special.log_ndtr(z).mean(), {**metrics, "sigma": sigma_w.detach().mean().item()})


def gaussian(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the reward, [N] each, from the head's outputs [N, 2]."""
    return values[..., 0], softplus(values[..., 1]) + 1e-3
