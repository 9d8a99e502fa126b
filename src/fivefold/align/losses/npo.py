"""Negative preference optimisation: make given answers less likely, without the collapse of plain gradient ascent.

    L = - (2 / beta) mean_n log sigmoid( - beta h_n ),   h_n = log pi(y_n|x_n) - log pi_ref(y_n|x_n)

Sign: minimised; at least 0, and log 2 * 2 / beta where the policy is the reference. Reduction: mean over answers. As
beta goes to 0 its gradient becomes that of gradient ascent. Use: unlearning; a retained set is trained beside it by
another loss. Source: Zhang et al. 2024 (arXiv:2404.05868), equation 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction

KIND: Kind = "single"
REDUCTION: Reduction = "item"
REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the NPO loss."""

    beta: float = 0.1
    """Inverse temperature; smaller comes closer to gradient ascent."""


def loss(answers: Answers, config: Config) -> LossOutput:
    """NPO loss of N answers to forget."""
    h = answers.log_ratio()
    value = -(2 / config.beta) * logsigmoid(-config.beta * h).mean()
    return LossOutput(value, {"log_ratio": h.detach().mean().item()})
