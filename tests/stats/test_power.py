"""Power and sample sizes: against enumeration and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from fivefold.errors import UsageError
from fivefold.stats import (
    cases_to_clear,
    detectable_paired,
    mcnemar,
    n_for_paired,
    n_for_rate,
    n_for_zero_failures,
    power_paired,
    power_rate,
    wilson,
    zero_failure_upper,
)
from fivefold.stats.power import clearing_count

P = st.just(0.0) | st.floats(1e-12, 0.5)
"""Rates; scipy's binomial overflows below the normal numbers."""


@settings(max_examples=60)
@given(st.integers(1, 120), st.floats(0.02, 0.5), P, st.sampled_from(["lower", "higher"]))
def test_power_is_the_chance_of_the_counts_that_clear(n, threshold, p, safer):
    found = [wilson(k, n) for k in range(n + 1)]
    clears = [w.high <= threshold if safer == "lower" else w.low >= threshold for w in found]
    expected = sum(reference.binom.pmf(k, n, p) for k in range(n + 1) if clears[k])
    assert power_rate(p, threshold, n, safer) == pytest.approx(expected, abs=1e-9)
    worst = clearing_count(n, threshold, safer, 0.95)
    assert (worst is None) == (not any(clears))


@pytest.mark.parametrize("p, threshold, safer", [(0.02, 0.1, "lower"), (0.05, 0.1, "lower"), (0.95, 0.85, "higher")])
def test_the_minimum_n_suffices_and_less_does_not(p, threshold, safer):
    n = n_for_rate(p, threshold, safer)
    assert n is not None
    assert all(power_rate(p, threshold, m, safer) >= 0.8 for m in range(n, n + n // 10))
    assert power_rate(p, threshold, n - 1, safer) < 0.8


def test_no_n_shows_what_is_not_so():
    assert n_for_rate(0.1, 0.1, "lower") is None
    assert n_for_rate(0.2, 0.1, "lower") is None
    assert n_for_rate(0.8, 0.9, "higher") is None


@given(st.integers(0, 60), st.integers(1, 200), st.floats(0.01, 0.9), st.sampled_from(["lower", "higher"]))
def test_cases_to_clear_is_the_first_n_at_this_rate(k, n, threshold, safer):
    k = min(k, n)
    more = cases_to_clear(k, n, threshold, safer)
    right_side = k / n < threshold if safer == "lower" else k / n > threshold
    assert (more is not None) == right_side
    if more is None or more > 100_000:
        return

    def clears(total: int) -> bool:
        found = wilson(k / n * total, total)
        return found.high <= threshold if safer == "lower" else found.low >= threshold

    assert clears(n + more)
    assert more == 0 or not clears(n + more - 1)


def test_cases_to_clear_from_nothing_assumes_the_best():
    n = cases_to_clear(0, 0, 0.05, "lower")
    assert n is not None and wilson(0, n).high <= 0.05 < wilson(0, n - 1).high
    m = cases_to_clear(0, 0, 0.9, "higher")
    assert m is not None and wilson(m, m).low >= 0.9 > wilson(m - 1, m - 1).low


def test_paired_power_by_simulation(rng):
    found = power_paired(0.15, 0.05, 120)
    runs, hits = 1500, 0
    for _ in range(runs):
        first, second, *_ = rng.multinomial(120, [0.15, 0.05, 0.8])
        a = np.r_[np.ones(first), np.zeros(second), np.zeros(120 - first - second)]
        b = np.r_[np.zeros(first), np.ones(second), np.zeros(120 - first - second)]
        hits += mcnemar(a, b).p_value <= 0.05
    assert hits / runs == pytest.approx(found, abs=0.04)


def test_paired_test_keeps_its_level():
    for n in (20, 60, 200):
        assert power_paired(0.1, 0.1, n) < 0.055


def test_minimum_pairs():
    n = n_for_paired(0.10, 0.04)
    assert n is not None and power_paired(0.10, 0.04, n) >= 0.8 > power_paired(0.10, 0.04, n - 5)
    assert n_for_paired(0.1, 0.1) is None
    assert n_for_paired(0.0101, 0.01) is None, "beyond what anyone runs"


@pytest.mark.parametrize("threshold, n", [(0.05, 59), (0.01, 299), (0.001, 2995)])
def test_cases_without_failure(threshold, n):
    assert n_for_zero_failures(threshold) == n
    assert zero_failure_upper(n) <= threshold < zero_failure_upper(n - 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: n_for_rate(0.1, 0.2, "neither"),
        lambda: cases_to_clear(1, 10, 1.5, "lower"),
        lambda: power_rate(1.2, 0.5, 10, "lower"),
        lambda: power_paired(0.9, 0.2, 10),
        lambda: power_paired(-0.1, 0.2, 10),
        lambda: n_for_zero_failures(0),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(UsageError):
        call()


@pytest.mark.parametrize("n, discordant", [(200, 0.2), (1000, 0.1), (1000, 0.3)])
def test_the_detectable_difference_is_found_and_a_smaller_one_is_not(n, discordant):
    d = detectable_paired(n, discordant)
    assert d is not None
    found = power_paired((discordant + d) / 2, (discordant - d) / 2, n)
    less = power_paired((discordant + d) / 2 - 0.001, (discordant - d) / 2 + 0.001, n)
    assert found >= 0.8 > less
    assert detectable_paired(5, discordant) is None
