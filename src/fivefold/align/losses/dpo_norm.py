"""Length-normalised DPO: DPO on log-ratios per token, so that longer answers have no larger margin by their length.

    L = - mean_n log sigmoid( beta ( h_w / |y_w| - h_l / |y_l| ) )

with h as in `dpo`. Sign: minimised; log 2 where the policy is the reference. Reduction: mean over pairs. beta is an
order of magnitude larger than in DPO (5 in the paper), because log-ratios per token are small. TRL calls it
`sigmoid_norm`. Source: Lambert et al. 2024 (Tulu 3, arXiv:2411.15124), equation 6.
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
    """Options of the length-normalised DPO loss."""

    beta: float = 5.0
    """Scale of the log-ratios per token."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """Length-normalised DPO loss of N pairs."""
    reward_w = config.beta * chosen.log_ratio() / chosen.n_tokens
    reward_l = config.beta * rejected.log_ratio() / rejected.n_tokens
    return LossOutput(-logsigmoid(reward_w - reward_l).mean(), preference_metrics(reward_w, reward_l))
