"""Distillation: bring the student's next-token distributions to the teacher's.

    forward:  KL( p || q )           mean-seeking: covers everything that the teacher may say
    reverse:  KL( q || p )           mode-seeking: says only what the teacher would say
    jsd:      b KL( p || m ) + (1 - b) KL( q || m ),   m = b p + (1 - b) q      bounded; b in (0, 1)

with p the teacher's and q the student's distribution, both at temperature tau. Sign: minimised; 0 where they agree.
Reduction: mean over tokens of the sum over the vocabulary. TRL's GKDTrainer has the same divergences; it calls b `beta`,
reads beta 0 as forward and beta 1 as reverse, and divides by tokens likewise. No factor tau^2 (Hinton et al. have one).
Source: Agarwal et al. 2023 (generalised knowledge distillation, arXiv:2306.13649), equation 1; Hinton et al. 2015
(arXiv:1503.02531).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fivefold.align.losses._base import Distributions, Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import mean_of_tokens
from fivefold.errors import UsageError

KIND: Kind = "distributions"
REDUCTION: Reduction = "token"
REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of distillation."""

    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """Which divergence is minimised."""
    mix: float = 0.5
    """b of the Jensen-Shannon divergence, the teacher's weight in the mixture."""
    temperature: float = 1.0
    """tau: both distributions are softened by it."""


def loss(answers: Distributions, config: Config) -> LossOutput:
    """Mean divergence per token of logits [N, T, V]."""
    p, q = ((x / config.temperature).log_softmax(-1) for x in (answers.teacher, answers.student))
    value = mean_of_tokens(divergence(p, q, config), answers.mask)
    agree = (answers.teacher.argmax(-1) == answers.student.argmax(-1)).float()
    return LossOutput(value, {"same_top_token": mean_of_tokens(agree, answers.mask).item()})


def divergence(p: Tensor, q: Tensor, config: Config) -> Tensor:
    """Divergence at each position [N, T] of teacher's and student's log-probabilities [N, T, V]."""
    if config.divergence == "forward":
        return _kl(p, q)
    if config.divergence == "reverse":
        return _kl(q, p)
    if not 0 < config.mix < 1:
        raise UsageError("the mixture's weight", expected="between 0 and 1, both excluded", got=config.mix)
    m = torch.logaddexp(p + math.log(config.mix), q + math.log1p(-config.mix))
    return config.mix * _kl(p, m) + (1 - config.mix) * _kl(q, m)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)
