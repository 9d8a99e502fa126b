"""Confidence sequences: anytime coverage by simulation, and by the definition."""

from __future__ import annotations

import bisect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy import stats as reference

from fivefold.errors import UsageError
from fivefold.stats import anytime_rate, clopper_pearson, confidence_sequence, may_stop, wilson
from fivefold.stats.sequential import log_evidence

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize("k, n, p", [(0, 5, 0.2), (3, 10, 0.5), (10, 10, 0.9)])
def test_the_evidence_is_the_mixed_likelihood_ratio(k, n, p):
    def ratio(q: float) -> float:
        return reference.beta.pdf(q, 0.5, 0.5) * (q / p) ** k * ((1 - q) / (1 - p)) ** (n - k)

    expected = integrate.quad(ratio, 0, 1, limit=200)[0]
    assert math.exp(log_evidence(k, n, p)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_the_evidence_is_a_fair_game(p):
    """Expected wealth after one more case is the wealth before: a martingale, whence Ville's inequality."""
    for k, n in ((0, 0), (1, 3), (5, 20), (0, 50)):
        after = p * math.exp(log_evidence(k + 1, n + 1, p)) + (1 - p) * math.exp(log_evidence(k, n + 1, p))
        assert after == pytest.approx(math.exp(log_evidence(k, n, p)), rel=1e-9)


@pytest.mark.parametrize("p", [0.0, 0.02, 0.1, 0.4])
def test_anytime_coverage(rng, p):
    """Looked at after every one of 400 cases, it is wrong at any time in at most 5% of runs; Wilson in far more."""
    top, runs = 400, 1000
    limit = -math.log1p(-0.95)
    inside = np.array(
        [[log_evidence(k, n, p) < limit if k <= n else False for k in range(top + 1)] for n in range(1, top + 1)]
    )
    paths = np.cumsum(rng.random((runs, top)) < p, axis=1)
    ever_wrong = ~inside[np.arange(top), paths].all(axis=1)
    assert ever_wrong.mean() <= 0.05 + 0.012
    if p == 0.4:
        table = [[wilson(k, n) if k <= n else None for k in range(top + 1)] for n in range(1, top + 1)]
        naive = np.mean(
            [any(not table[n][k].low <= p <= table[n][k].high for n, k in enumerate(path)) for path in paths[:200]]
        )
        assert naive > 0.25, "this is why it is needed"


@given(counts)
def test_the_ends_are_where_the_evidence_reaches_the_limit(k_n):
    k, n = k_n
    found = confidence_sequence(k, n)
    limit = -math.log1p(-0.95)
    assert 0 <= found.low <= k / n <= found.high <= 1
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert log_evidence(k, n, end) == pytest.approx(limit, abs=1e-6)


@given(counts)
def test_it_is_wider_than_an_interval_for_one_look(k_n):
    k, n = k_n
    found, once = confidence_sequence(k, n), clopper_pearson(k, n)
    assert found.high - found.low > 0.9 * (once.high - once.low)


def test_it_narrows_to_the_truth():
    widths = [
        confidence_sequence(n // 10, n).high - confidence_sequence(n // 10, n).low for n in (10, 100, 1000, 10_000)
    ]
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.03


def test_stopping_rules():
    assert may_stop(0, 200, 0.05, "lower").verdict == "pass"
    assert may_stop(100, 200, 0.05, "lower").verdict == "fail"
    assert may_stop(8, 200, 0.05, "lower").verdict == "go on"
    assert may_stop(200, 200, 0.9, "higher").verdict == "pass"
    assert may_stop(100, 200, 0.9, "higher").verdict == "fail"
    assert may_stop(0, 200, 0.05, "lower").may_stop and not may_stop(0, 0, 0.05, "lower").may_stop
    assert may_stop(0, 0, 0.05, "lower").interval.estimate is None
    with pytest.raises(UsageError):
        may_stop(0, 1, 0.05, "neither")


def test_stopping_early_seldom_passes_what_is_on_the_line(rng):
    """A rate exactly at the threshold, a look after every case: a pass is a mistake, and rare."""

    def most_events_that_pass(n: int) -> int:
        return bisect.bisect_left(range(n + 1), True, key=lambda k: may_stop(k, n, 0.1, "lower").verdict != "pass") - 1

    limits = np.array([most_events_that_pass(n) for n in range(1, 251)])
    paths = np.cumsum(rng.random((2000, 250)) < 0.1000001, axis=1)
    assert limits[-1] > 5
    assert (paths <= limits).any(axis=1).mean() < 0.05


def test_clusters_are_draws_and_scores_may_lie_in_between():
    plain = anytime_rate([0, 1, 1, 0, 0])
    assert (plain.low, plain.high) == (confidence_sequence(2, 5).low, confidence_sequence(2, 5).high)
    copies = anytime_rate([0, 1, 1, 0, 0] * 4, clusters=list("abcde") * 4)
    assert (copies.low, copies.high, copies.n) == (plain.low, plain.high, 5)
    halves = anytime_rate([0.5, 0.25, 0.75], level=0.9)
    assert halves.low < 0.5 < halves.high and halves.estimate == pytest.approx(0.5)
    with pytest.raises(UsageError):
        anytime_rate([0.2, 1.2])
    assert anytime_rate([]).estimate is None
