"""Intervals of one rate or mean: against scipy and statsmodels, by their definitions, and by their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference
from statsmodels.stats.proportion import proportion_confint

from fivefold.errors import UsageError
from fivefold.stats import Interval, clopper_pearson, mean_interval, rate, wilson, zero_failure_upper
from fivefold.types import Errored, Scored, Unscored

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
levels = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None
    return interval.low, interval.high


@given(counts, levels)
def test_wilson_is_statsmodels_wilson(k_n, level):
    k, n = k_n
    assert ends(wilson(k, n, level)) == pytest.approx(proportion_confint(k, n, 1 - level, "wilson"), abs=1e-12)


@given(counts, levels)
def test_clopper_pearson_is_scipys_exact(k_n, level):
    k, n = k_n
    expected = reference.binomtest(k, n).proportion_ci(level, "exact")
    assert ends(clopper_pearson(k, n, level)) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(counts, levels)
def test_both_hold_the_estimate_and_mirror_each_other(k_n, level):
    k, n = k_n
    for method in (wilson, clopper_pearson):
        low, high = ends(method(k, n, level))
        mirrored = ends(method(n - k, n, level))
        assert 0 <= low <= k / n <= high <= 1
        assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-9)


@given(st.integers(1, 200), levels)
def test_more_cases_and_less_confidence_are_narrower(n, level):
    def width(k, n, level):
        low, high = ends(wilson(k, n, level))
        return high - low

    assert width(2 * n, 8 * n, level) < width(n, 4 * n, level)
    assert width(n, 4 * n, level) < width(n, 4 * n, 0.999)


def test_no_cases_is_no_estimate():
    for interval in (wilson(0, 0), clopper_pearson(0, 0), mean_interval([]), rate([])):
        assert (interval.estimate, interval.low, interval.high, interval.n) == (None, None, None, 0)
        assert interval.reason == "no cases"
    assert zero_failure_upper(0) is None


def test_all_right_is_not_certain():
    low, high = ends(wilson(8, 8))
    assert (low, high) == (pytest.approx(0.6756, abs=1e-4), 1.0)


@pytest.mark.parametrize("n, bound", [(300, 0.0099), (1000, 0.0030), (59, 0.0495)])
def test_the_rule_of_three(n, bound):
    assert zero_failure_upper(n) == pytest.approx(bound, abs=5e-5)
    one_sided = clopper_pearson(0, n, 0.90).high
    assert zero_failure_upper(n) == pytest.approx(one_sided, abs=1e-12)


@pytest.mark.parametrize("n", [10, 40, 150])
def test_coverage_of_clopper_pearson_never_falls_short(coverage, n):
    assert min(coverage(clopper_pearson, n, p) for p in np.linspace(0.001, 0.999, 101)) >= 0.95


@pytest.mark.parametrize("n", [20, 40, 150])
def test_coverage_of_wilson_is_right_on_average(coverage, n):
    found = [coverage(wilson, n, p) for p in np.linspace(0.005, 0.995, 199)]
    assert np.mean(found) == pytest.approx(0.95, abs=0.01)
    assert min(found) > 0.83, "the known dips next to 0 and 1 (Brown, Cai and DasGupta 2001, fig. 5)"


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30).filter(lambda x: np.std(x) > 1e-6), levels)
def test_the_t_interval_is_scipys(values, level):
    expected = reference.ttest_1samp(values, 0).confidence_interval(level)
    assert ends(mean_interval(values, level)) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


def test_the_bootstrap_is_scipys_bca(rng):
    x = rng.exponential(size=60)
    expected = reference.bootstrap((x,), np.mean, n_resamples=20_000, method="BCa", rng=rng).confidence_interval
    found = ends(mean_interval(x, method="bootstrap", resamples=20_000))
    assert found == pytest.approx((expected.low, expected.high), abs=0.02)
    assert ends(mean_interval(x, method="bootstrap")) == ends(mean_interval(x, method="bootstrap")), "seeded"


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0, 2.0]])
def test_without_spread_there_is_no_width_to_claim(values):
    for method in ("t", "bootstrap"):
        found = mean_interval(values, method=method)
        assert found.estimate == values[0] and found.low is None and found.high is None and found.reason


def test_a_rate_counts_only_what_was_scored():
    scored = [Scored(value=v, label="x", judge="j") for v in (1, 1, 0)]
    found = rate([*scored, Unscored(reason="r"), Errored(error="e")])
    assert found == wilson(2, 3)
    assert rate(scored, method="clopper-pearson") == clopper_pearson(2, 3)
    assert rate([Errored(error="e")]).estimate is None
    with pytest.raises(UsageError, match="counts events"):
        rate([Scored(value=0.5, label="x", judge="j")])


@pytest.mark.parametrize(
    "k, n, level", [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 0), (1, 3, 1), (1, 3, 95), (math.nan, 3, 0.95)]
)
def test_what_is_no_count_is_refused(k, n, level):
    with pytest.raises(UsageError):
        wilson(k, n, level)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_not_a_value(bad):
    with pytest.raises(UsageError, match="NaN"):
        mean_interval([1.0, bad])
