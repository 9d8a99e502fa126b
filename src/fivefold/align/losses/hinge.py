"""Hinge preference loss: push the margin of log-ratios up to a fixed value and no further.

    L = mean_n max(0, 1 - beta (h_w - h_l)),   h_y = log pi(y|x) - log pi_ref(y|x), summed over tokens

Sign: minimised; at least 0. Reduction: mean over pairs. SLiC's margin is on log-probabilities without a reference; with
log-ratios this is RSO's `hinge-norm` loss, and what TRL calls `hinge`. Source: Zhao et al. 2023 (SLiC-HF,
arXiv:2305.10425), section 2.2; Liu et al. 2023 (RSO, arXiv:2309.06657), equation 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction, preference_metrics

KIND: Kind = "pair"
REDUCTION: Reduction = "item"
REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the hinge loss."""

    beta: float = 0.1
    """Strength of the tie to the reference."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """hinge loss of N pairs."""
    reward_w, reward_l = config.beta * chosen.log_ratio(), config.beta * rejected.log_ratio()
    value = (1 - (reward_w - reward_l)).relu().mean()
    return LossOutput(value, preference_metrics(reward_w, reward_l))
