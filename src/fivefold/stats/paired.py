"""Two models on the same cases, or on different ones.

Comparing on the same cases removes what the cases contribute: where most cases keep their score, a paired test finds a
difference of two points at n = 1,000 that an unpaired one almost never does (tests/stats/test_paired.py).

Sources
- McNemar, Psychometrika 12 (1947); Fagerland, Lydersen & Laake, "The McNemar test for binary matched-pairs data: mid-p
  and asymptotic are better than exact conditional", BMC Med. Res. Methodology 13 (2013).
- Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
  Statistics in Medicine 17 (1998): the score interval; its bound also decides non-inferiority.
- Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
  Statistics in Medicine 17 (1998), method 10 (square and add, with the corrected correlation).
- Newcombe, "Interval estimation for the difference between independent proportions", same volume, method 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from fivefold.errors import UsageError
from fivefold.stats.clustered import cluster_bootstrap, cluster_codes, effective_share
from fivefold.stats.intervals import (
    BLOCK,
    Floats,
    Interval,
    bca_limits,
    bootstrap_means,
    check_counts,
    finite,
    nothing,
    wilson_limits,
    z_of,
)
from fivefold.types import Outcome, Safer, Scored

PairedMethod: TypeAlias = Literal["tango", "newcombe", "bootstrap"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cases by what two models did: both, only the first, only the second, neither."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def n(self) -> int:
        """All cases."""
        return self.both + self.only_first + self.only_second + self.neither


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Case ids on which two versions differ. `rose`: the score went up, `fell`: down, in the order of the cases.

    `same` counts the cases scored alike; `lost` names those scored by one version only, which compare with nothing.
    """

    rose: tuple[str, ...]
    fell: tuple[str, ...]
    same: int
    lost: tuple[str, ...]

    @property
    def n(self) -> int:
        """Cases that both versions were scored on."""
        return len(self.rose) + len(self.fell) + self.same


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Test of "neither model has the event more often". p is 1 when no case differs."""

    only_first: int
    only_second: int
    p_value: float
    method: str


@dataclass(frozen=True, kw_only=True)
class NonInferiority:
    """Whether the second model is at most `margin` worse than the first, at one-sided error (1 - level) / 2.

    `shown` is None when there were no pairs. `bound` is the end of the interval of second minus first that is worse.
    """

    shown: bool | None
    bound: float | None
    margin: float
    difference: Interval


def pair(first: Mapping[str, Outcome], second: Mapping[str, Outcome]) -> tuple[Floats, Floats, list[str], list[str]]:
    """Scores of the cases that both were scored on, their ids, and the ids that only one was scored on."""
    a = {i: o.value for i, o in first.items() if isinstance(o, Scored)}
    b = {i: o.value for i, o in second.items() if isinstance(o, Scored)}
    ids = [i for i in a if i in b]
    lost = [i for i in [*first, *(i for i in second if i not in first)] if (i in a) != (i in b)]
    return np.array([a[i] for i in ids]), np.array([b[i] for i in ids]), ids, lost


def flipped(first: Mapping[str, Outcome], second: Mapping[str, Outcome]) -> Flips:
    """Which cases changed from `first` to `second`, both ways."""
    a, b, ids, lost = pair(first, second)
    rose = tuple(i for i, x, y in zip(ids, a, b, strict=True) if y > x)
    fell = tuple(i for i, x, y in zip(ids, a, b, strict=True) if y < x)
    return Flips(rose=rose, fell=fell, same=len(ids) - len(rose) - len(fell), lost=tuple(lost))


def table(first: ArrayLike, second: ArrayLike) -> Table:
    """The fourfold table of two rows of 0 and 1."""
    a, b = finite(first), finite(second)
    if a.size != b.size or not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise UsageError(
            "not paired events", expected="two rows of 0 and 1 of one length", got=f"{a.size} and {b.size}"
        )
    return Table(
        both=int(np.sum((a == 1) & (b == 1))),
        only_first=int(np.sum((a == 1) & (b == 0))),
        only_second=int(np.sum((a == 0) & (b == 1))),
        neither=int(np.sum((a == 0) & (b == 0))),
    )


def mcnemar(first: ArrayLike, second: ArrayLike, *, method: Literal["exact", "mid-p"] = "mid-p") -> McNemar:
    """McNemar's test on two rows of 0 and 1, two-sided."""
    t = table(first, second)
    p = mcnemar_p(t.only_first, t.only_second, mid=method == "mid-p")
    return McNemar(only_first=t.only_first, only_second=t.only_second, p_value=p, method=method)


def mcnemar_p(b: int, c: int, *, mid: bool) -> float:
    """Two-sided p of b against c discordant pairs under a fair coin; `mid` counts half of the observed table."""
    n, k = b + c, min(b, c)
    if n == 0:
        return 1.0
    at_most = float(bdtr(k, n, 0.5))
    if not mid:
        return min(1.0, 2 * at_most)
    observed = at_most - (float(bdtr(k - 1, n, 0.5)) if k else 0.0)
    return min(1.0, 2 * at_most - observed)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    level: float = 0.95,
    *,
    method: PairedMethod = "tango",
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of `second` minus the mean of `first` on the same cases.

    `tango` and `newcombe` take 0 and 1; `bootstrap` takes any scores. Where `clusters` repeat, `tango` counts each pair
    for its share of an independent one (`clustered.effective_share` of the differences); `newcombe` takes none.
    """
    a, b = finite(first), finite(second)
    if a.size != b.size:
        raise UsageError("not paired", expected="as many scores in both", got=f"{a.size} and {b.size}")
    if a.size == 0:
        return nothing(method, level, "no pairs")
    if method == "bootstrap":
        return paired_bootstrap(a, b, level, clusters=clusters, seed=seed)
    t, z = table(a, b), z_of(level)
    if method == "newcombe":
        if clusters is not None:
            raise UsageError("newcombe's interval takes no clusters", next_step="use tango or bootstrap")
        low, high = _newcombe_paired(t, z)
    else:
        share = 1.0 if clusters is None else effective_share(b - a, clusters, level)
        low, high = _tango(share * t.only_second, share * t.only_first, share * t.n, z)
    difference = (t.only_second - t.only_first) / t.n
    return Interval(estimate=difference, low=low, high=high, level=level, n=t.n, method=method)


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    level: float = 0.95,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """Bootstrap interval of the mean difference: BCa over cases, or percentile over whole clusters.

    Where no case differs the replicates are all zero and the ends None: the sample says nothing of how rare a
    difference is (use `tango` for 0 and 1).
    """
    a, b = finite(first), finite(second)
    d = b - a
    name = "paired-bootstrap"
    if d.size < 2 or np.all(d == d[0]):
        reason = "no pairs" if d.size == 0 else "all differences are equal: their spread is not known"
        estimate = float(d.mean()) if d.size else None
        return Interval(estimate=estimate, low=None, high=None, level=level, n=d.size, method=name, reason=reason)
    if clusters is not None:
        return cluster_bootstrap(lambda i: float(d[i].mean()), clusters, level, seed=seed, resamples=resamples)
    means = bootstrap_means(d, seed, resamples)
    low, high = bca_limits(means, float(d.mean()), (d.sum() - d) / (d.size - 1), level)
    return Interval(estimate=float(d.mean()), low=low, high=high, level=level, n=d.size, method=name)


def sign_flip_p(
    first: ArrayLike,
    second: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 9999,
) -> float:
    """Two-sided p-value of "no difference" for any paired scores, whole clusters as units: the sums of differences of
    the clusters change sign at random (Fisher's randomisation test). 1 when nothing differs."""
    d = finite(second) - finite(first)
    codes = cluster_codes(range(d.size) if clusters is None else clusters, d.size)
    sums = np.bincount(codes, weights=d) if d.size else np.zeros(0)
    sums = sums[sums != 0]
    if sums.size == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // sums.size)
    sizes = [min(block, resamples - done) for done in range(0, resamples, block)]
    flips = (rng.integers(0, 2, (size, sums.size)) * 2.0 - 1.0 for size in sizes)
    seen = abs(float(sums.sum())) - 1e-9
    return (1 + sum(int((abs(f @ sums) >= seen).sum()) for f in flips)) / (resamples + 1)


def unpaired_difference(k1: int, n1: int, k2: int, n2: int, level: float = 0.95) -> Interval:
    """Newcombe's hybrid score interval of the second rate minus the first, on different cases."""
    check_counts(k1, n1, level)
    check_counts(k2, n2, level)
    if n1 == 0 or n2 == 0:
        return nothing("newcombe-unpaired", level, "no cases on one side")
    z, p1, p2 = z_of(level), k1 / n1, k2 / n2
    (l1, u1), (l2, u2) = wilson_limits(p1, n1, z), wilson_limits(p2, n2, z)
    d = p2 - p1
    low, high = d - math.hypot(p2 - l2, u1 - p1), d + math.hypot(u2 - p2, p1 - l1)
    return Interval(estimate=d, low=low, high=high, level=level, n=n1 + n2, method="newcombe-unpaired")


def non_inferior(
    first: ArrayLike,
    second: ArrayLike,
    margin: float,
    safer: Safer,
    level: float = 0.95,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> NonInferiority:
    """Whether `second` is worse than `first` by less than `margin`, with direction given by `safer`.

    Uses Tango's score interval for 0 and 1 and the bootstrap otherwise. UsageError when `safer` is "neither".
    """
    if margin < 0 or safer == "neither":
        raise UsageError(
            "non-inferiority needs a direction and a margin", expected="safer higher or lower, margin >= 0"
        )
    a, b = finite(first), finite(second)
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    difference = paired_difference(a, b, level, method="tango" if binary else "bootstrap", clusters=clusters, seed=seed)
    bound = difference.high if safer == "lower" else difference.low
    shown = None if bound is None else (bound < margin if safer == "lower" else bound > -margin)
    return NonInferiority(shown=shown, bound=bound, margin=margin, difference=difference)


def _tango(up: float, down: float, n: float, z: float) -> tuple[float, float]:
    """Differences (second - first) that the score test does not reject, `up` and `down` of n pairs being discordant:
    Tango 1998, with the constrained estimate of the probability of "down". Counts may be fractional."""

    def score(d: float) -> float:
        b = (2 * n - up + down) * d - up - down
        c = down * d * (d - 1)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * q + d * (1 - d))
        gap = up - down - n * d
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0

    estimate = (up - down) / n
    low = -1.0 if estimate == -1 else _falling_root(score, z, -1.0, estimate)
    high = 1.0 if estimate == 1 else _falling_root(score, -z, estimate, 1.0)
    return low, high


def _falling_root(f: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where the falling function f passes `target`, by bisection to the last digit."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if f(middle) > target else (low, middle)
    return (low + high) / 2


def _newcombe_paired(t: Table, z: float) -> tuple[float, float]:
    first, second, n = t.both + t.only_first, t.both + t.only_second, t.n
    p1, p2 = first / n, second / n
    (l1, u1), (l2, u2) = wilson_limits(p1, n, z), wilson_limits(p2, n, z)
    phi = _correlation(t)
    d = p2 - p1
    below = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    above = (u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2
    return d - math.sqrt(max(0.0, below)), d + math.sqrt(max(0.0, above))


def _correlation(t: Table) -> float:
    """Newcombe's phi: a positive correlation is reduced by n / 2 in its numerator, not below 0."""
    margins = (
        (t.both + t.only_first) * (t.only_second + t.neither) * (t.both + t.only_second) * (t.only_first + t.neither)
    )
    if margins == 0:
        return 0.0
    cross = t.both * t.neither - t.only_first * t.only_second
    corrected = max(cross - t.n / 2, 0.0) if cross > 0 else float(cross)
    return corrected / math.sqrt(margins)
