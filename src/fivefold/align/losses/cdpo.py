"""Conservative DPO: DPO where a share of the preference labels is assumed to be flipped.

    L = mean_n [ - (1 - eps) log sigmoid(beta m) - eps log sigmoid(-beta m) ],   m = h_w - h_l

with h as in `dpo`. Sign: minimised. Reduction: mean over pairs. Smallest where sigmoid(beta m) = 1 - eps, so the margin
stays finite. TRL calls eps `label_smoothing`. Source: Mitchell 2023, "A note on DPO with noisy preferences", section 2.
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
    """Options of the cDPO loss."""

    beta: float = 0.1
    """Strength of the tie to the reference."""
    eps: float = 0.1
    """Assumed share of flipped labels, at least 0 and below 0.5."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """cDPO loss of N pairs."""
    reward_w, reward_l = config.beta * chosen.log_ratio(), config.beta * rejected.log_ratio()
    margin = reward_w - reward_l
    value = -((1 - config.eps) * logsigmoid(margin) + config.eps * logsigmoid(-margin)).mean()
    return LossOutput(value, preference_metrics(reward_w, reward_l))
