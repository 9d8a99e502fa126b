"""Safe RLHF: the most reward that a limit on expected cost allows, by a Lagrange multiplier that prices the cost.

    max over pi, min over lambda >= 0 of   E[R] - lambda ( E[C] - d )
    L = - mean_token min( r_t A_n, clip(r_t) A_n ),   A = ( A^R - lambda A^C ) / ( 1 + lambda )
    log lambda  <-  log lambda + eta lambda ( mean C - d )       after each round (`next_multiplier`)

with r_t as in `ppo`. Sign: minimised in pi; lambda grows while the limit d is exceeded. Reduction: mean over tokens. The
paper estimates A^R and A^C by two critics; here both are leave-one-out advantages within a prompt's group, which needs
no critic; the constraint, the mixture and the update are the paper's. Source: Dai et al. 2023 (arXiv:2310.12773),
section 3.3 and appendix B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fivefold.align.losses._base import Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import Rollout, Sampled, clipped, leave_one_out, mean_of_tokens, rollout_metrics
from fivefold.errors import UsageError

KIND: Kind = "rollout"
REDUCTION: Reduction = "token"
REFERENCE = True
LEAST_SAMPLES = 2
SIGNED = frozenset({"limit"})
KL_IN_REWARD = True
COSTS = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of safe RLHF."""

    clip: float = 0.2
    """eps: how far the ratio may leave 1 before its gradient stops."""
    limit: float = 0.0
    """d: the expected cost that is allowed."""
    start: float = 1.0
    """The multiplier before the first round."""
    rate: float = 0.1
    """eta: how fast the multiplier follows."""
    most: float = 100.0
    """Largest multiplier; beyond it the reward no longer counts."""


def advantages(sampled: Sampled, config: Config) -> Tensor:
    """Advantage of the reward less the priced one of the cost, at every token [N, T]."""
    if sampled.costs is None:
        raise UsageError("safe RLHF needs the cost of every answer")
    gain, cost = (leave_one_out(x, sampled.scored) for x in (sampled.shaped(), sampled.costs))
    return sampled.over_tokens((gain - sampled.multiplier * cost) / (1 + sampled.multiplier))


def next_multiplier(multiplier: float, mean_cost: float, config: Config) -> float:
    """The multiplier after a round with this mean cost."""
    moved = math.log(multiplier) + config.rate * multiplier * (mean_cost - config.limit)
    return math.exp(min(max(moved, -20.0), math.log(config.most)))


def loss(rollout: Rollout, config: Config) -> LossOutput:
    """Clipped policy loss on the mixed advantages."""
    ratio = rollout.log_ratio().exp()
    gain = clipped(ratio, rollout.advantages, config.clip, config.clip)
    value = -mean_of_tokens(gain, rollout.mask)
    return LossOutput(value, rollout_metrics(rollout, ratio, config.clip, config.clip))
