"""Cost model of safe RLHF: which answer is more harmful, and whether each is harmful at all (cost above 0).

    L = - mean_n [ log sigmoid( C(y_w) - C(y_l) ) + log sigmoid( s_w C(y_w) ) + log sigmoid( s_l C(y_l) ) ]

where y_w is the MORE HARMFUL answer ("chosen" here means chosen as worse) and s = +1 for a harmful answer, -1 for a
harmless one. Sign: minimised; harmful answers come to have positive cost. Reduction: mean over pairs. The first term
alone is `reward`; the other two fix where 0 lies, so that a constraint on the cost means something. Source: Dai et al.
2023 (Safe RLHF, arXiv:2310.12773), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fivefold.align.losses._base import Kind, LossOutput, Reduction, Scores, preference_metrics
from fivefold.errors import UsageError

KIND: Kind = "scores"
REDUCTION: Reduction = "item"
REFERENCE = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """The cost model's loss has no options."""


def loss(chosen: Scores, rejected: Scores, config: Config) -> LossOutput:
    """Cost loss of N pairs, the more harmful answer first; both need `unsafe`."""
    signs = [_sign(chosen), _sign(rejected)]
    ranking = logsigmoid(chosen.values - rejected.values)
    placing = logsigmoid(signs[0] * chosen.values) + logsigmoid(signs[1] * rejected.values)
    metrics = preference_metrics(chosen.values.mean(-1), rejected.values.mean(-1))
    return LossOutput(-(ranking + placing).mean(), metrics)


def _sign(scores: Scores) -> Tensor:
    if scores.unsafe is None:
        raise UsageError("the cost model needs to know which answers are harmful in themselves")
    return torch.where(scores.unsafe, 1.0, -1.0)[:, None].to(scores.values)
