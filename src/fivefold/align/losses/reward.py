"""Bradley-Terry reward model: the chosen answer scores higher than the rejected one, by a margin where one is known.

    L = mean_n mean_k [ - log sigmoid( r_k(x, y_w) - r_k(x, y_l) - m ) + c ( r_k(x, y_w) + r_k(x, y_l) )^2 ]

Sign: minimised; log 2 for an undecided model. Reduction: mean over pairs and over the K members of an ensemble (one
head each; K = 1 is the plain model). c centres rewards near 0, where the pairwise term leaves them free. The ensemble's
disagreement is its uncertainty: `pessimistic` scores by mean less spread, which a policy finds harder to exploit. TRL's
RewardTrainer is K = 1 with `center_rewards_coefficient` = c. Source: Ouyang et al. 2022 (InstructGPT, arXiv:2203.02155),
equation 1; margin: Touvron et al. 2023 (Llama 2, arXiv:2307.09288), equation 2; centring: Eisenstein et al. 2023
(arXiv:2312.09244); ensemble: Coste et al. 2023 (arXiv:2310.02743), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fivefold.align.losses._base import Kind, LossOutput, Reduction, Scores, preference_metrics

KIND: Kind = "scores"
REDUCTION: Reduction = "item"
REFERENCE = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the reward model's loss."""

    centre: float = 0.0
    """c: weight of the squared sum of both rewards (0.01 in the paper)."""


def loss(chosen: Scores, rejected: Scores, config: Config) -> LossOutput:
    """Bradley-Terry loss of N pairs and K heads."""
    margin = 0.0 if chosen.margin is None else chosen.margin[:, None]
    nll = -logsigmoid(chosen.values - rejected.values - margin)
    centred = config.centre * (chosen.values + rejected.values).square()
    metrics = preference_metrics(chosen.values.mean(-1), rejected.values.mean(-1))
    return LossOutput((nll + centred).mean(), {**metrics, "spread": spread(chosen.values.detach()).mean().item()})


def spread(values: Tensor) -> Tensor:
    """Disagreement of an ensemble, [N]: the standard deviation over its K members, 0 for one."""
    return values.std(-1, correction=0)


def pessimistic(values: Tensor, weight: float) -> Tensor:
    """Mean less `weight` times the variance over members, [N]: the uncertainty-weighted reward of Coste et al."""
    return values.mean(-1) - weight * torch.var(values, -1, correction=0)
