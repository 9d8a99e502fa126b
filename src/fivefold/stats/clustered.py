"""Rates and means whose cases come in clusters: translations of one behaviour, samples of one scenario.

Cases of a cluster resemble each other, so n of them say less than n independent ones.

Sources
- Miller, "Adding error bars to evals", arXiv 2411.00640 (2024), sec. 2.2: clustered standard errors for evaluations.
- Cameron & Miller, "A practitioner's guide to cluster-robust inference", J. Human Resources 50 (2015): the factor
  G / (G - 1) and t with G - 1 degrees of freedom.
- Korn & Graubard, "Confidence intervals for proportions with small expected number of positive counts", Survey
  Methodology 24 (1998): effective sample size with adjusted degrees of freedom; here inside the Wilson interval, as
  compared by Franco, Little, Louis & Slud, J. Survey Statistics and Methodology 7 (2019).
- Field & Welsh, "Bootstrapping clustered data", JRSS B 69 (2007): resampling whole clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from fivefold.errors import UsageError
from fivefold.stats.intervals import Floats, Interval, check_level, finite, nothing, wilson_limits, z_of


def cluster_codes(clusters: Sequence[Hashable], n: int) -> NDArray[np.intp]:
    """Cluster of each case as an integer from 0 to G - 1."""
    if len(clusters) != n:
        raise UsageError("each case needs its cluster", expected=f"{n} clusters", got=len(clusters))
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(c, len(seen)) for c in clusters], dtype=np.intp)


def clustered_se(values: ArrayLike, clusters: Sequence[Hashable]) -> float | None:
    """Standard error of the mean that allows any dependence inside a cluster; None with fewer than two clusters."""
    x = finite(values)
    codes = cluster_codes(clusters, x.size)
    g = int(codes.max()) + 1 if x.size else 0
    if g < 2:
        return None
    sums = np.bincount(codes, weights=x - x.mean(), minlength=g)
    return math.sqrt(g / (g - 1) * float(np.sum(sums**2))) / x.size


def design_effect(values: ArrayLike, clusters: Sequence[Hashable]) -> float | None:
    """Variance of the mean relative to independent cases, at least 1; None when it cannot be estimated (fewer than two
    clusters, or no spread)."""
    x = finite(values)
    se = clustered_se(x, clusters)
    independent = float(x.var()) / x.size if x.size else 0.0
    if se is None or independent == 0:
        return None
    return max(1.0, se * se / independent)


def effective_share(values: ArrayLike, clusters: Sequence[Hashable], level: float = 0.95) -> float:
    """Share of the cases that count: 1 / deff · (z / t)² with t on G - 1 degrees of freedom, 1 when no cluster repeats.

    Where every case agrees the design effect cannot be estimated, and each cluster counts as one case: the worst that
    dependence can do.
    """
    x = finite(values)
    g = len(set(clusters))
    if g == x.size:
        return 1.0
    deff = design_effect(x, clusters)
    if deff is None:
        return max(1, g) / x.size
    t = float(stdtrit(g - 1, (1 + level) / 2))
    return max(1 / x.size, (z_of(level) / t) ** 2 / deff)


def clustered_rate(values: ArrayLike, clusters: Sequence[Hashable] | None = None, level: float = 0.95) -> Interval:
    """Interval for the mean of values between 0 and 1: Wilson's, with as many cases as the data are worth.

    For 0 and 1 without repeated clusters this is Wilson's interval itself. Values in between vary less than events do,
    so they count as p (1 - p) / variance cases each (never less than one).
    """
    x = finite(values)
    check_level(level)
    if x.size == 0:
        return nothing("wilson", level, "no cases")
    if ((x < 0) | (x > 1)).any():
        raise UsageError("not a rate", expected="values between 0 and 1", got=f"{x.min():g} to {x.max():g}")
    codes = cluster_codes(range(x.size) if clusters is None else clusters, x.size)
    n_eff, p, g = effective_n(x, codes.tolist(), level), float(x.mean()), int(codes.max()) + 1
    low, high = wilson_limits(p, n_eff, z_of(level))
    plain = g == x.size and math.isclose(n_eff, x.size)
    return Interval(
        estimate=p,
        low=low,
        high=high,
        level=level,
        n=x.size,
        method="wilson" if plain else "wilson-effective",
        reason="" if plain else f"{x.size} cases in {g} clusters, worth {n_eff:.1f} independent events",
    )


def effective_n(values: ArrayLike, clusters: Sequence[Hashable], level: float = 0.95) -> float:
    """How many independent events say as much about the mean as these values between 0 and 1; at least 1."""
    x = finite(values)
    p, variance = float(x.mean()), float(x.var())
    worth = 1.0 if variance == 0 else p * (1 - p) / variance
    if math.isclose(worth, 1.0):
        worth = 1.0
    else:
        t = float(stdtrit(max(1, x.size - 1), (1 + level) / 2))
        worth = max(1.0, worth * (z_of(level) / t) ** 2)
    return max(1.0, x.size * worth * effective_share(x, clusters, level))


def clustered_mean(values: ArrayLike, clusters: Sequence[Hashable], level: float = 0.95) -> Interval:
    """Student's t interval for a mean of any real values, with the clustered standard error and G - 1 degrees of
    freedom. The ends are None with fewer than two clusters or without spread."""
    x = finite(values)
    se = clustered_se(x, clusters)
    estimate = float(x.mean()) if x.size else None
    if not se:
        reason = "fewer than two clusters" if se is None else "all values are equal: their spread is not known"
        return Interval(
            estimate=estimate, low=None, high=None, level=level, n=x.size, method="t-clustered", reason=reason
        )
    assert estimate is not None
    half = float(stdtrit(len(set(clusters)) - 1, (1 + level) / 2)) * se
    return Interval(
        estimate=estimate, low=estimate - half, high=estimate + half, level=level, n=x.size, method="t-clustered"
    )


def cluster_bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Sequence[Hashable],
    level: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """Percentile interval of any statistic, whole clusters drawn with replacement.

    `statistic` is given the indices of the drawn cases (with repetition) and returns a number.
    """
    check_level(level)
    n = len(clusters)
    codes = cluster_codes(clusters, n)
    members = [np.flatnonzero(codes == c) for c in range(int(codes.max()) + 1 if n else 0)]
    if len(members) < 2:
        return nothing("cluster-bootstrap", level, f"{len(members)} cluster(s): at least two are needed", n)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(members), len(members)) for _ in range(resamples))
    replicates: Floats = np.array([statistic(np.concatenate([members[i] for i in draw])) for draw in draws])
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        estimate=float(statistic(np.arange(n))),
        low=float(low),
        high=float(high),
        level=level,
        n=n,
        method="cluster-bootstrap",
    )
