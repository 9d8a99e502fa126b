"""DPO-Positive: DPO that is punished when the chosen answer becomes less likely than under the reference.

    L = - mean_n log sigmoid( beta * ( h_w - h_l - lambda * max(0, -h_w) ) )

with h as in `dpo`. Sign: minimised. Reduction: mean over pairs. With lambda = 0 this is DPO. Source: Pal et al. 2024
(Smaug, arXiv:2402.13228), equation 3.
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
    """Options of the DPO-Positive loss."""

    beta: float = 0.1
    """Strength of the tie to the reference."""
    penalty: float = 50.0
    """Lambda: weight of the chosen answer's loss of likelihood; the paper's value is 50."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """DPO-Positive loss of N pairs."""
    h_w, h_l = chosen.log_ratio(), rejected.log_ratio()
    value = -logsigmoid(config.beta * (h_w - h_l - config.penalty * (-h_w).relu())).mean()
    return LossOutput(value, preference_metrics(config.beta * h_w, config.beta * h_l))
