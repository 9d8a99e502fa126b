"""Robust DPO: an unbiased estimate of the DPO loss under a known share of flipped labels.

    L = mean_n [ - (1 - eps) log sigmoid(beta m) + eps log sigmoid(-beta m) ] / (1 - 2 eps),   m = h_w - h_l

with h as in `dpo`. Sign: minimised; may be negative. Reduction: mean over pairs. Differs from `cdpo` in the sign of the
second term and in the scale. TRL: `loss_type="robust"`. Source: Chowdhury et al. 2024 (arXiv:2403.00409), equation 12.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction, preference_metrics

KIND: Kind = "pair"
REDUCTION: Reduction = "item"
REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the robust DPO loss."""

    beta: float = 0.1
    """Strength of the tie to the reference."""
    eps: float = 0.1
    """Share of flipped labels, at least 0 and below 0.5."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """robust DPO loss of N pairs."""
    reward_w, reward_l = config.beta * chosen.log_ratio(), config.beta * rejected.log_ratio()
    margin = reward_w - reward_l
    value = -((1 - config.eps) * logsigmoid(margin) - config.eps * logsigmoid(-margin)).mean() / (1 - 2 * config.eps)
    return LossOutput(value, preference_metrics(reward_w, reward_l))
