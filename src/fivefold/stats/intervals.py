"""Intervals for one rate or one mean. No cases is no estimate: `n = 0` gives None, never 0.

Sources
- Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
- Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26
  (1934).
- Brown, Cai & DasGupta, "Interval estimation for a binomial proportion", Statistical Science 16 (2001): why Wilson for
  general use, and why the normal ("Wald") interval, which calls 8 of 8 certain, is not offered.
- Hanley & Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 249 (1983): the bound after no event.
- Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 14: bias-corrected and accelerated bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from fivefold.errors import UsageError
from fivefold.types import Outcome, Scored

Floats: TypeAlias = NDArray[np.float64]

BLOCK = 4_000_000
"""Numbers that a bootstrap draws at a time."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with a two-sided confidence interval. `n` counts the cases behind it.

    All three numbers are None when there is nothing to estimate from, and `reason` then says why; otherwise `reason`
    holds what a reader must know about the number, if anything.
    """

    estimate: float | None
    low: float | None
    high: float | None
    level: float
    n: int
    method: str
    reason: str = ""


def nothing(method: str, level: float, reason: str, n: int = 0) -> Interval:
    """The interval of what cannot be estimated."""
    return Interval(estimate=None, low=None, high=None, level=level, n=n, method=method, reason=reason)


def wilson(k: float, n: float, level: float = 0.95) -> Interval:
    """Wilson score interval for k events in n cases; both may be fractional (effective cases)."""
    check_counts(k, n, level)
    if n == 0:
        return nothing("wilson", level, "no cases")
    low, high = wilson_limits(k / n, n, z_of(level))
    return Interval(estimate=k / n, low=low, high=high, level=level, n=round(n), method="wilson")


def wilson_limits(p: float, n: float, z: float) -> tuple[float, float]:
    """Both ends of the score interval for a rate p seen in n (possibly effective, hence real) cases."""
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At p = 0 and p = 1 the exact limits are 0 and 1; rounding would leave them a hair inside.
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Interval:
    """Exact binomial interval: covers at least `level` whatever the true rate."""
    check_counts(k, n, level)
    if n == 0:
        return nothing("clopper-pearson", level, "no cases")
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return Interval(estimate=k / n, low=low, high=high, level=level, n=n, method="clopper-pearson")


def zero_failure_upper(n: int, level: float = 0.95) -> float | None:
    """One-sided exact upper bound on a rate after no event in n cases: 1 - (1 - level)^(1/n), about 3/n at 95%."""
    check_counts(0, n, level)
    return None if n == 0 else -math.expm1(math.log1p(-level) / n)


def mean_interval(
    values: ArrayLike,
    level: float = 0.95,
    *,
    method: Literal["t", "bootstrap"] = "t",
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """Interval for the mean of real values: Student's t, or the BCa bootstrap for skewed ones.

    One value, or values without any spread, say nothing of their own uncertainty: the ends are then None and `reason`
    says so, for an interval of no width would claim certainty.
    """
    x = finite(values)
    check_level(level)
    if x.size == 0:
        return nothing(method, level, "no cases")
    mean, spread = float(x.mean()), float(x.std(ddof=1)) if x.size > 1 else 0.0
    if spread == 0:
        reason = "a single case" if x.size == 1 else "all values are equal: their spread is not known"
        return Interval(estimate=mean, low=None, high=None, level=level, n=x.size, method=method, reason=reason)
    if method == "t":
        half = float(stdtrit(x.size - 1, (1 + level) / 2)) * spread / math.sqrt(x.size)
        low, high = mean - half, mean + half
    else:
        low, high = _bca(x, level, seed, resamples)
    return Interval(estimate=mean, low=low, high=high, level=level, n=x.size, method=method)


def rate(
    outcomes: Sequence[Outcome], level: float = 0.95, *, method: Literal["wilson", "clopper-pearson"] = "wilson"
) -> Interval:
    """Share of the scored outcomes whose value is 1. Unscored and errored ones are not cases; values between 0 and 1
    are refused here (`mean_interval` or `measure_rate` take them)."""
    values = [o.value for o in outcomes if isinstance(o, Scored)]
    if any(v not in (0, 1) for v in values):
        raise UsageError("a rate counts events", expected="scores of 0 or 1", got="scores in between")
    k, n = int(sum(values)), len(values)
    return wilson(k, n, level) if method == "wilson" else clopper_pearson(k, n, level)


def _bca(x: Floats, level: float, seed: int, resamples: int) -> tuple[float, float]:
    means = bootstrap_means(x, seed, resamples)
    return bca_limits(means, float(x.mean()), (x.sum() - x) / (x.size - 1), level)


def bootstrap_means(x: Floats, seed: int, resamples: int) -> Floats:
    """Means of `resamples` samples of x with replacement, drawn in blocks that fit in memory."""
    rng = np.random.default_rng(seed)
    block = max(1, min(resamples, BLOCK // x.size))
    sizes = [min(block, resamples - done) for done in range(0, resamples, block)]
    return np.concatenate([x[rng.integers(0, x.size, (size, x.size))].mean(axis=1) for size in sizes])


def bca_limits(replicates: Floats, estimate: float, jackknife: Floats, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated percentiles of bootstrap replicates (Efron & Tibshirani eq. 14.9-14.15)."""
    below = (np.sum(replicates < estimate) + 0.5 * np.sum(replicates == estimate)) / replicates.size
    bias = float(ndtri(np.clip(below, 1 / (2 * replicates.size), 1 - 1 / (2 * replicates.size))))
    d = jackknife.mean() - jackknife
    squares = float(np.sum(d**2))
    acceleration = 0.0 if squares == 0 else float(np.sum(d**3)) / (6 * squares**1.5)
    tails = np.array([ndtri((1 - level) / 2), ndtri((1 + level) / 2)])
    shifted = bias + (bias + tails) / (1 - acceleration * (bias + tails))
    low, high = np.quantile(replicates, ndtr(shifted))
    return float(low), float(high)


def z_of(level: float) -> float:
    """Two-sided normal quantile: 1.96 at 0.95."""
    check_level(level)
    return float(ndtri((1 + level) / 2))


def finite(values: ArrayLike) -> Floats:
    """One row of finite numbers; UsageError for NaN, which is not a way to say "not measured"."""
    x = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(x).all():
        raise UsageError(
            "the values hold NaN or infinity",
            expected="finite numbers",
            next_step="leave unscored and errored cases out",
        )
    return x


def check_counts(k: float, n: float, level: float) -> None:
    """UsageError unless 0 <= k <= n and the level is inside (0, 1)."""
    check_level(level)
    if not (0 <= k <= n):
        raise UsageError("not a count of events", expected="0 <= k <= n", got=f"k = {k}, n = {n}")


def check_level(level: float) -> None:
    """UsageError unless the confidence level is inside (0, 1)."""
    if not 0 < level < 1:
        raise UsageError("not a confidence level", expected="between 0 and 1, say 0.95", got=level)
