"""Identity preference optimisation: regress the margin of log-ratios to a fixed value instead of pushing it for ever.

    L = mean_n ( h_w - h_l - 1 / (2 beta) )^2,   h_y = log pi(y|x) - log pi_ref(y|x)

Sign: minimised; at least 0. Reduction: mean over pairs. The paper sums log-probabilities over tokens; TRL averages them
over tokens for this loss, which its authors' later note advises: `per_token=True`. Source: Azar et al. 2023
(arXiv:2310.12036), equation 17 (their tau is beta here).
"""

from __future__ import annotations

from dataclasses import dataclass

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction, preference_metrics

KIND: Kind = "pair"
REDUCTION: Reduction = "item"
REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the IPO loss."""

    beta: float = 0.1
    """Regularisation; the margin is regressed to 1 / (2 beta)."""
    per_token: bool = False
    """Divide each answer's log-ratio by its length."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """IPO loss of N pairs."""
    h_w, h_l = chosen.log_ratio(), rejected.log_ratio()
    if config.per_token:
        h_w, h_l = h_w / chosen.n_tokens, h_l / rejected.n_tokens
    value = (h_w - h_l - 1 / (2 * config.beta)).square().mean()
    return LossOutput(value, preference_metrics(config.beta * h_w, config.beta * h_l))
