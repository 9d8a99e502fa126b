"""Direct preference optimisation: classify which of two answers is preferred by their log-ratios to a reference.

    L = - mean_n log sigmoid( beta * (h_w - h_l) ),   h_y = log pi(y|x) - log pi_ref(y|x), summed over tokens

Sign: minimised; log 2 where the policy is the reference. Reduction: mean over pairs; log-probabilities are summed, not
averaged, over tokens, so length matters (TRL agrees; see `simpo` for the length-normalised kind). The reward shown in
the metrics is beta * h. Source: Rafailov et al. 2023 (arXiv:2305.18290), equation 7.
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
    """Options of the DPO loss."""

    beta: float = 0.1
    """Strength of the tie to the reference; smaller lets the policy move further."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """DPO loss of N pairs."""
    reward_w, reward_l = config.beta * chosen.log_ratio(), config.beta * rejected.log_ratio()
    value = -logsigmoid(reward_w - reward_l).mean()
    return LossOutput(value, preference_metrics(reward_w, reward_l))
