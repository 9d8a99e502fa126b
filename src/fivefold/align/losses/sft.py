"""Supervised fine-tuning: negative log-likelihood of demonstrated answers.

    L = - sum_n sum_t log pi(y_nt | x_n, y_n<t) / sum_n |y_n|

Sign: minimised; at least 0. Reduction: mean over all answer tokens of the batch, as TRL and most trainers do, so a
long answer weighs more than a short one. Prompt tokens never count. Source: Ouyang et al. 2022 (InstructGPT,
arXiv:2203.02155), section 3.5, step 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction

KIND: Kind = "single"
REDUCTION: Reduction = "token"
REFERENCE = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """The SFT loss has no options."""


def loss(answers: Answers, config: Config) -> LossOutput:
    """Negative log-likelihood per answer token."""
    nll = -(answers.logps * answers.mask).sum() / answers.mask.sum()
    return LossOutput(nll, {"nll": nll.item()})
