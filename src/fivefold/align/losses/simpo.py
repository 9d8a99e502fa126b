"""Simple preference optimisation: compare mean log-probabilities, without a reference, against a target margin.

    L = - mean_n log sigmoid( beta / |y_w| log pi(y_w|x) - beta / |y_l| log pi(y_l|x) - gamma )

Sign: minimised. Reduction: mean over pairs; mean over tokens inside, so length does not count. beta is larger than in
DPO (2 to 2.5). The paper's code sets gamma through gamma / beta, here it is gamma itself, as in the formula. Source:
Meng et al. 2024 (arXiv:2405.14734), equation 6.
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
    """Options of the SimPO loss."""

    beta: float = 2.0
    """Scale of the mean log-probabilities."""
    gamma: float = 1.0
    """Target margin, in units of the reward."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """SimPO loss of N pairs."""
    reward_w, reward_l = config.beta * chosen.mean(), config.beta * rejected.mean()
    value = -logsigmoid(reward_w - reward_l - config.gamma).mean()
    return LossOutput(value, preference_metrics(reward_w, reward_l))
