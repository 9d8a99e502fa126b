"""Kahneman-Tversky optimisation: learn from single answers that are marked desirable or not.

    L = mean_n [ lambda_D ( 1 - sigmoid(beta (h_n - z)) ) ]   for desirable answers
        mean_n [ lambda_U ( 1 - sigmoid(beta (z - h_n)) ) ]   for undesirable ones
    z = max(0, mean_n h'_n),   h'_n = log-ratio of an answer that belongs to another prompt of the batch

with h as in `dpo`; z estimates KL(pi || pi_ref) and has no gradient. Sign: minimised. Reduction: mean over all answers
of the batch, both kinds together as in TRL; over the batch, because z is shared. Each item carries two answers: its
own, and the mismatched one for z. Source: Ethayarajh et al. 2024 (arXiv:2402.01306), equation 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction
from fivefold.errors import UsageError

KIND: Kind = "unpaired"
REDUCTION: Reduction = "batch"
REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the KTO loss."""

    beta: float = 0.1
    """Strength of the tie to the reference."""
    desirable: float = 1.0
    """lambda_D, weight of desirable answers."""
    undesirable: float = 1.0
    """lambda_U, weight of undesirable answers."""


def loss(answers: Answers, mismatched: Answers, config: Config) -> LossOutput:
    """KTO loss of N answers with `label`, and N mismatched answers for the estimate of the KL divergence."""
    if answers.label is None:
        raise UsageError("the KTO loss needs to know which answers are desirable")
    kl = mismatched.log_ratio().detach().mean().clamp(min=0)
    h = answers.log_ratio()
    sign = torch.where(answers.label, h.new_tensor(1.0), h.new_tensor(-1.0))
    weight = torch.where(answers.label, h.new_tensor(config.desirable), h.new_tensor(config.undesirable))
    value = (weight * (1 - torch.sigmoid(config.beta * sign * (h - kl)))).mean()
    reward = (config.beta * h).detach()
    return LossOutput(value, {"kl": kl.item(), **_mean_reward(reward, answers.label)})


def _mean_reward(reward: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """Mean reward of desirable and of undesirable answers, where the batch has any."""
    named = {"reward_desirable": reward[label], "reward_undesirable": reward[~label]}
    return {name: values.mean().item() for name, values in named.items() if len(values)}
