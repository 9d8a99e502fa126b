"""Looking at a rate while it is being measured, and stopping early without lying.

An ordinary interval looked at after each case is wrong sooner or later; a confidence sequence covers the true rate at
all looks at once with the stated level, so one may stop whenever it clears a threshold.

Sources
- Robbins, "Statistical methods related to the law of the iterated logarithm", Ann. Math. Statistics 41 (1970): mixtures
  of likelihood ratios; Ville's inequality gives the bound.
- Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
  Statistics 49 (2021), sec. 3; here the beta-binomial mixture, which for a Bernoulli mean is exact and closed-form.

Scores between 0 and 1 are taken too: (q/p)^x ((1-q)/(1-p))^(1-x) is convex in x, so its mean under any distribution on
[0, 1] with mean p is at most that of a coin, and the mixture stays a supermartingale (wider than need be, never false).

The cases must come in random order. For a finite suite drawn without replacement the sequence stays valid for the rate
of the population that the suite was drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, xlog1py, xlogy

from fivefold.errors import UsageError
from fivefold.stats.clustered import cluster_codes
from fivefold.stats.intervals import Floats, Interval, check_counts, finite, nothing
from fivefold.types import Safer

PRIOR = (0.5, 0.5)
"""Jeffreys mixture: tight at rates near 0 and 1, where safety rates lie."""

CLUSTERED = "confidence-sequence, clustered"

Verdict: TypeAlias = Literal["pass", "fail", "go on"]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Whether measuring may end now. `pass`: the rate is on the safe side of the threshold; `fail`: on the other."""

    verdict: Verdict
    interval: Interval

    @property
    def may_stop(self) -> bool:
        """Whether the answer is known."""
        return self.verdict != "go on"


def log_evidence(k: float, n: int, rate: float, prior: tuple[float, float] = PRIOR) -> float:
    """Log of the mixture martingale against `rate` after k events in n cases; its exponential is an e-value.

    If `rate` is the truth, the chance that this ever exceeds log(1 / alpha) is at most alpha.
    """
    return _log_mixture(k, n, prior) - float(xlogy(k, rate) + xlog1py(n - k, -rate))


def confidence_sequence(k: float, n: int, level: float = 0.95, *, prior: tuple[float, float] = PRIOR) -> Interval:
    """Interval that holds at every n at once: all rates whose evidence against them is below 1 / (1 - level)."""
    check_counts(k, n, level)
    if n == 0:
        return nothing("confidence-sequence", level, "no cases")
    limit, p = -math.log1p(-level), k / n
    low = 0.0 if k == 0 else _edge(k, n, 0.0, p, limit, prior)
    high = 1.0 if k == n else _edge(k, n, 1.0, p, limit, prior)
    return Interval(estimate=p, low=low, high=high, level=level, n=n, method="confidence-sequence")


def anytime_rate(values: ArrayLike, clusters: Sequence[Hashable] | None = None, level: float = 0.95) -> Interval:
    """Confidence sequence for the mean of values between 0 and 1. Whole clusters are the draws: each counts once, by its
    mean, so that cases which resemble each other are not counted as independent, and the estimate is the mean of those.
    """
    means = cluster_means(values, clusters)
    found = confidence_sequence(round(float(means.sum()), 9), means.size, level)
    return found if clusters is None or means.size == np.size(values) else replace(found, method=CLUSTERED)


def cluster_means(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Floats:
    """The mean of each cluster's values, in order of first appearance; UsageError for values outside 0 to 1."""
    x = finite(values)
    if x.size and (x.min() < 0 or x.max() > 1):
        raise UsageError("not rates", expected="values between 0 and 1", got=f"{x.min():g} … {x.max():g}")
    if clusters is None:
        return x
    codes = cluster_codes(clusters, x.size)
    return np.asarray(np.bincount(codes, weights=x) / np.maximum(1, np.bincount(codes)), dtype=np.float64)


def may_stop(
    k: float, n: int, threshold: float, safer: Safer, level: float = 0.95, *, prior: tuple[float, float] = PRIOR
) -> Stop:
    """Whether k events in n cases settle on which side of `threshold` the rate lies; may be asked after every case.

    UsageError when `safer` is "neither".
    """
    if safer == "neither":
        raise UsageError("a threshold needs a direction", expected="safer higher or lower", got=safer)
    interval = confidence_sequence(k, n, level, prior=prior)
    if interval.low is None or interval.high is None:
        return Stop(verdict="go on", interval=interval)
    below, above = interval.high <= threshold, interval.low > threshold
    if safer == "higher":
        below, above = interval.high < threshold, interval.low >= threshold
    good, bad = (below, above) if safer == "lower" else (above, below)
    return Stop(verdict="pass" if good else "fail" if bad else "go on", interval=interval)


def _log_mixture(k: float, n: int, prior: tuple[float, float]) -> float:
    a, b = prior
    return float(betaln(a + k, b + n - k) - betaln(a, b))


def _edge(k: float, n: int, outside: float, inside: float, limit: float, prior: tuple[float, float]) -> float:
    """The last rate from `inside` towards `outside` that is not rejected, by bisection; errs on the wide side."""
    mixed = _log_mixture(k, n, prior)
    for _ in range(200):
        middle = (outside + inside) / 2
        if middle in (outside, inside):
            break
        if mixed - k * math.log(middle) - (n - k) * math.log1p(-middle) >= limit:
            outside = middle
        else:
            inside = middle
    return outside
