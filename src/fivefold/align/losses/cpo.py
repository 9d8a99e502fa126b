"""Contrastive preference optimisation: DPO with a uniform reference, and a likelihood term on the chosen answer.

    L = mean_n [ - log sigmoid( beta (log pi(y_w|x) - log pi(y_l|x)) ) - alpha log pi(y_w|x) / |y_w| ]

Sign: minimised. Reduction: mean over pairs; the likelihood term is a mean over the tokens of each chosen answer. The
paper writes the likelihood term as an expectation of log pi(y_w|x); TRL takes the mean over all chosen tokens of the
batch. Source: Xu et al. 2024 (arXiv:2401.08417), equations 3 to 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction, preference_metrics

KIND: Kind = "pair"
REDUCTION: Reduction = "item"
REFERENCE = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the CPO loss."""

    beta: float = 0.1
    """Scale of the difference of log-probabilities."""
    alpha: float = 1.0
    """Weight of the likelihood of the chosen answer."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """CPO loss of N pairs."""
    reward_w, reward_l = config.beta * chosen.total(), config.beta * rejected.total()
    nll = -chosen.mean()
    value = (-logsigmoid(reward_w - reward_l) + config.alpha * nll).mean()
    return LossOutput(value, {**preference_metrics(reward_w, reward_l), "nll": nll.detach().mean().item()})
