"""How long something holds out: the Kaplan-Meier estimate, for models that withstand an attack for a number of queries.

Sources
- Kaplan & Meier, "Nonparametric Estimation from Incomplete Observations", JASA 53 (1958).
- Greenwood's variance (1926) on the log(-log) scale, which keeps limits inside [0, 1]: Kalbfleisch & Prentice, "The
  Statistical Analysis of Failure Time Data" (1980), section 1.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fivefold.errors import UsageError
from fivefold.stats.intervals import check_level, finite, z_of


@dataclass(frozen=True, kw_only=True)
class Survival:
    """One step of the curve: the share that holds out beyond `time`, with pointwise limits (None where the variance is not
    known: before the first event, and once nothing survives)."""

    time: float
    share: float
    low: float | None
    high: float | None
    at_risk: int
    events: int


def kaplan_meier(times: ArrayLike, events: ArrayLike, level: float = 0.95) -> list[Survival]:
    """The curve's steps, one for each time at which something happened, in order; empty without data.

    `times` [n] >= 0 is when the event came, or when watching ended; `events` [n] is 1 for the event, 0 for the end of
    watching (censored, which must not depend on what would have come next). Subjects count as independent.
    """
    check_level(level)
    t, e = finite(times), finite(events)
    if t.size != e.size or not np.isin(e, (0, 1)).all() or (t < 0).any():
        raise UsageError("not times and events", expected="as many times >= 0 as events of 0 or 1")
    z, share, greenwood = z_of(level), 1.0, 0.0
    steps: list[Survival] = []
    for time in np.unique(t[e == 1]):
        n, d = int(np.sum(t >= time)), int(np.sum((t == time) & (e == 1)))
        share *= 1 - d / n
        greenwood = math.inf if n == d else greenwood + d / (n * (n - d))
        low, high = _limits(share, greenwood, z)
        steps.append(Survival(time=float(time), share=share, low=low, high=high, at_risk=n, events=d))
    return steps


def median_time(steps: list[Survival]) -> float | None:
    """The first time at which no more than half hold out; None when more do to the end."""
    return next((s.time for s in steps if s.share <= 0.5), None)


def _limits(share: float, greenwood: float, z: float) -> tuple[float | None, float | None]:
    if not 0 < share < 1 or not math.isfinite(greenwood):
        return None, None
    half = z * math.sqrt(greenwood) / abs(math.log(share))
    return share ** math.exp(half), share ** math.exp(-half)
