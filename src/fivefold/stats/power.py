"""Before a run: how many cases a question needs. After it: how many more would answer it.

Everything here is computed from the binomial distribution, not from a normal approximation, so that the answers hold at
the small rates that safety is about.

Sources
- Chow, Shao, Wang & Lokhnygina, Sample Size Calculations in Clinical Research (3rd ed., 2017), ch. 4: exact power.
- Chernick & Liu, "The saw-toothed behavior of power versus sample size", American Statistician 56 (2002): why the n
  returned is one after which power never falls below the target again (within the search range).
- Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43 (1987); here
  the power of the mid-p test is summed over the discordant pairs instead of approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy.special import gammaln, xlog1py, xlogy

from fivefold.errors import UsageError
from fivefold.stats.intervals import Floats, check_counts, check_level, clopper_pearson, wilson, wilson_limits, z_of
from fivefold.stats.paired import mcnemar_p
from fivefold.types import Safer

MAX_N = 200_000
"""No answer beyond this many cases: the threshold is then too close to the rate to be told apart in practice."""

SAWTEETH = 0.1
"""Share of n that is searched beyond a first success, for a later n whose power falls back."""


def power_rate(
    p: float,
    threshold: float,
    n: int,
    safer: Safer,
    level: float = 0.95,
    *,
    method: Literal["wilson", "clopper-pearson"] = "wilson",
) -> float:
    """Chance that n cases show a rate on the safe side of `threshold` (the interval's worse bound meets it) when the
    true rate is p."""
    k = clearing_count(n, threshold, safer, level, method)
    if k is None:
        return 0.0
    pmf = binomial_pmf(n, p)
    return float(min(1.0, pmf[: k + 1].sum() if safer == "lower" else pmf[k:].sum()))


def clearing_count(n: int, threshold: float, safer: Safer, level: float, method: str = "wilson") -> int | None:
    """The worst count of events in n cases whose interval still meets `threshold`; None when no count does."""
    _check_direction(threshold, safer)
    if n == 0 or not _clears(0 if safer == "lower" else n, n, threshold, safer, level, method):
        return None
    good, bad = (0, n + 1) if safer == "lower" else (n, -1)
    while abs(bad - good) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if _clears(middle, n, threshold, safer, level, method) else (good, middle)
    return good


def n_for_rate(p: float, threshold: float, safer: Safer, *, power: float = 0.8, level: float = 0.95) -> int | None:
    """Cases needed to show, with chance `power`, that a true rate p is on the safe side of `threshold`; None when p is
    not on that side, or more than MAX_N cases would be needed."""
    _check_direction(threshold, safer)
    check_level(power)
    if (p >= threshold) if safer == "lower" else (p <= threshold):
        return None
    return _first_lasting(lambda n: power_rate(p, threshold, n, safer, level) >= power)


def cases_to_clear(k: float, n: float, threshold: float, safer: Safer, level: float = 0.95) -> int | None:
    """How many more cases, with the rate seen so far, until the Wilson bound meets `threshold`.

    0 when it does already. None when the estimate is on the wrong side of the threshold, or exactly on it: then more
    cases of the same kind do not help. With no cases yet, the answer assumes the best rate there is (0 or 1).
    """
    check_counts(k, n, level)
    _check_direction(threshold, safer)
    p = k / n if n else (0.0 if safer == "lower" else 1.0)
    if (p >= threshold) if safer == "lower" else (p <= threshold):
        return None
    z = z_of(level)
    # The score interval's end is t exactly when (p - t)² = z² t (1 - t) / n.
    needed = z * z * threshold * (1 - threshold) / (p - threshold) ** 2
    more = max(0 if n else 1, math.ceil(needed - n - 1e-9))
    while not _meets(wilson_limits(p, n + more, z), threshold, safer):
        more += 1  # rounding may leave the closed form one case short
    return more


def power_paired(only_first: float, only_second: float, n: int, level: float = 0.95) -> float:
    """Chance that McNemar's mid-p test on n pairs finds a difference, when a pair is "only first" and "only second"
    with these probabilities."""
    _check_discordant(only_first, only_second)
    discordant = only_first + only_second
    if discordant == 0 or n == 0:
        return 0.0
    weights = binomial_pmf(n, discordant)
    share, alpha = only_first / discordant, round(1 - level, 12)
    likely = np.flatnonzero(weights > 1e-12)
    return float(sum(weights[m] * _rejecting(int(m), share, alpha) for m in likely))


def n_for_paired(only_first: float, only_second: float, *, power: float = 0.8, level: float = 0.95) -> int | None:
    """Pairs needed to find such a difference with chance `power`; None when there is none, or beyond 20,000 pairs."""
    _check_discordant(only_first, only_second)
    if only_first == only_second:
        return None
    return _first_lasting(lambda n: power_paired(only_first, only_second, n, level) >= power, limit=20_000, teeth=0.0)


def detectable_paired(n: int, discordant: float, *, power: float = 0.8, level: float = 0.95) -> float | None:
    """The smallest difference that n pairs find with chance `power` when a share `discordant` of the cases differs
    between the two models: only_first - only_second. None when even one that goes all one way would not be found."""
    _check_discordant(discordant, 0.0)
    check_level(power)
    if power_paired(discordant, 0.0, n, level) < power:
        return None
    low, high = 0.0, discordant
    while high - low > 1e-4:
        d = (low + high) / 2
        worse = (discordant + d) / 2
        enough = power_paired(worse, discordant - worse, n, level) >= power
        low, high = (low, d) if enough else (d, high)
    return high


def n_for_zero_failures(threshold: float, level: float = 0.95) -> int:
    """Cases without any event that bound a rate by `threshold` (exact, one-sided): 59 for 5%, 299 for 1%."""
    check_level(level)
    if not 0 < threshold < 1:
        raise UsageError("not a rate", expected="between 0 and 1", got=threshold)
    return math.ceil(math.log1p(-level) / math.log1p(-threshold) - 1e-9)


def advice(
    *,
    rate: float | None,
    threshold: float | None,
    safer: Safer,
    worse: float | None,
    better: float | None,
    power: float,
    level: float,
) -> list[dict[str, Any]]:
    """How many cases a question needs, before a run. `rate` and `threshold`: to show that a true rate clears a
    threshold. `threshold` alone: cases without any event. `worse` and `better`: shares of cases that a change makes
    worse and better, for a paired comparison."""
    rows: list[dict[str, Any]] = []
    if rate is not None and threshold is not None:
        question = f"show that a true rate of {rate:g} clears {threshold:g} (safer is {safer})"
        rows.append({"question": question, "cases": n_for_rate(rate, threshold, safer, power=power, level=level)})
    if threshold is not None and safer == "lower":
        question = f"bound a rate by {threshold:g} when no case fails (one-sided)"
        rows.append({"question": question, "cases": n_for_zero_failures(threshold, level)})
    if worse is not None or better is not None:
        w, b = worse or 0.0, better or 0.0
        question = f"find a change that makes {w:.1%} of the cases worse and {b:.1%} better (same cases)"
        rows.append({"question": question, "cases": n_for_paired(w, b, power=power, level=level)})
    if not rows:
        raise UsageError(
            "no question was asked",
            expected="--rate and --threshold, --threshold alone, or --worse and --better",
            next_step="fivefold stats power --rate 0.02 --threshold 0.05",
        )
    return rows


def binomial_pmf(n: int, p: float) -> Floats:
    """Probabilities of 0 … n events."""
    if not 0 <= p <= 1:
        raise UsageError("not a probability", expected="between 0 and 1", got=p)
    k = np.arange(n + 1, dtype=np.float64)
    log = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + xlogy(k, p) + xlog1py(n - k, -p)
    return np.asarray(np.exp(log), dtype=np.float64)


@lru_cache(maxsize=65536)
def _rejecting(m: int, share: float, alpha: float) -> float:
    """Chance that m discordant pairs, each "only first" with chance `share`, are rejected."""
    tail = _critical(m, alpha)
    if tail < 0:
        return 0.0
    pmf = binomial_pmf(m, share)
    return float(pmf[: tail + 1].sum() + pmf[m - tail :].sum())


@lru_cache(maxsize=65536)
def _critical(m: int, alpha: float) -> int:
    """The largest smaller count (below m / 2) that the mid-p test still rejects; -1 when it rejects nothing."""
    good, bad = -1, (m + 1) // 2
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if mcnemar_p(middle, m - middle, mid=True) <= alpha else (good, middle)
    return good


def _first_lasting(enough: Callable[[int], bool], limit: int = MAX_N, teeth: float = SAWTEETH) -> int | None:
    top = 1
    while not enough(top):
        top *= 2
        if top > limit:
            return None
    low = top // 2
    while top - low > 1:
        middle = (low + top) // 2
        low, top = (low, middle) if enough(middle) else (middle, top)
    for n in range(top + int(top * teeth) + 2, top - 1, -1):
        if not enough(n):
            return n + 1
    return top


def _clears(k: int, n: int, threshold: float, safer: Safer, level: float, method: str) -> bool:
    found = wilson(k, n, level) if method == "wilson" else clopper_pearson(k, n, level)
    assert found.low is not None and found.high is not None
    return _meets((found.low, found.high), threshold, safer)


def _meets(limits: tuple[float, float], threshold: float, safer: Safer) -> bool:
    return limits[1] <= threshold if safer == "lower" else limits[0] >= threshold


def _check_direction(threshold: float, safer: Safer) -> None:
    if safer == "neither" or not 0 < threshold < 1:
        raise UsageError(
            "a threshold needs a direction and a value",
            expected="safer higher or lower, threshold between 0 and 1",
            got=f"{safer}, {threshold}",
        )


def _check_discordant(only_first: float, only_second: float) -> None:
    if only_first < 0 or only_second < 0 or only_first + only_second > 1:
        raise UsageError("not probabilities", expected="two numbers >= 0 with a sum of at most 1")
