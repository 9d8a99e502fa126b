"""Process reward model: is each step of a reasoning right so far?

    L = - sum_ns [ c_ns log sigmoid(z_ns) + (1 - c_ns) log sigmoid(-z_ns) ] / (number of labelled steps)

with z_ns the head's output at the end of step s and c_ns 1 for a right step. Sign: minimised. Reduction: mean over
labelled steps. Steps after the first wrong one are usually left unlabelled. TRL's PRMTrainer trains a two-class token
head with cross-entropy; with logits (0, z) that is this loss. An answer's score is the least of its steps' or their
product (`answer_score`). Source: Lightman et al. 2023 (arXiv:2305.20050), section 2.4; Uesato et al. 2022
(arXiv:2211.14275).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from fivefold.align.losses._base import Kind, LossOutput, Reduction

KIND: Kind = "steps"
REDUCTION: Reduction = "token"
REFERENCE = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """The process reward loss has no options."""


def loss(steps: Tensor, right: Tensor, labelled: Tensor, config: Config) -> LossOutput:
    """Cross-entropy of step outputs [N, S] against labels [N, S] where `labelled` [N, S]."""
    each = binary_cross_entropy_with_logits(steps, right.to(steps.dtype), reduction="none")
    value = (each * labelled).sum() / labelled.sum()
    hit = ((steps > 0) == right)[labelled]
    return LossOutput(value, {"accuracy": hit.float().mean().item()})


def answer_score(steps: Tensor, there: Tensor, how: str = "product") -> Tensor:
    """Score of each answer [N] in [0, 1]: the product, or the `least`, of its steps' probabilities of being right."""
    logs = torch.where(there, logsigmoid(steps), 0.0)
    return (logs.sum(-1) if how == "product" else logs.amin(-1)).exp()
