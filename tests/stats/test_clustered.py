"""Clusters: the standard error against statsmodels, the intervals by what they must do and by their coverage."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from fivefold.errors import UsageError
from fivefold.stats import (
    cluster_bootstrap,
    clustered_mean,
    clustered_rate,
    clustered_se,
    design_effect,
    effective_n,
    wilson,
)

values = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=60)


def test_the_standard_error_is_statsmodels_cluster_robust(rng):
    codes = rng.integers(0, 12, 80)
    x = rng.normal(size=80) + codes
    fit = sm.OLS(x, np.ones(80)).fit(cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False})
    g = len(set(codes))
    assert clustered_se(x, codes.tolist()) == pytest.approx(fit.bse[0] * np.sqrt(g / (g - 1)))


@given(values)
def test_without_repeated_clusters_it_is_wilson(x):
    assert clustered_rate(x, range(len(x))) == clustered_rate(x) == wilson(sum(x), len(x))


@given(values, st.integers(2, 5))
def test_copies_of_a_case_add_nothing(x, copies):
    """Each case repeated within its own cluster is worth at most one case."""
    repeated = [v for v in x for _ in range(copies)]
    clusters = [i for i in range(len(x)) for _ in range(copies)]
    assert effective_n(repeated, clusters) <= len(x) + 1e-9
    once, many = wilson(sum(x), len(x)), clustered_rate(repeated, clusters)
    assert many.estimate == pytest.approx(once.estimate)
    assert many.low <= once.low + 1e-9 and many.high >= once.high - 1e-9


@given(values, st.data())
def test_an_effective_case_count_lies_between_one_and_n(x, data):
    clusters = data.draw(st.lists(st.integers(0, 5), min_size=len(x), max_size=len(x)))
    assert 1 <= effective_n(x, clusters) <= len(x) + 1e-9
    found = clustered_rate(x, clusters)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_where_all_agree_each_cluster_is_one_case():
    found = clustered_rate([0.0] * 30, [i // 3 for i in range(30)])
    assert (found.low, found.high) == pytest.approx((wilson(0, 10).low, wilson(0, 10).high))
    assert "10 clusters" in found.reason
    one = clustered_rate([0.0] * 30, ["same"] * 30)
    assert one.high == pytest.approx(wilson(0, 1).high), "thirty translations of one request are one case"


def test_fractional_scores_are_worth_more_than_events_of_the_same_mean(rng):
    graded = np.clip(rng.normal(0.5, 0.1, 50), 0, 1)
    found = clustered_rate(graded)
    assert found.high - found.low < wilson(25, 50).high - wilson(25, 50).low
    expected = reference.ttest_1samp(graded, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_coverage_under_strong_correlation(rng):
    """Behaviours in three languages that mostly agree: Wilson on the cases is too narrow, the clustered one is not."""
    hits = naive = 0
    runs, g, per, p = 600, 40, 3, 0.2
    clusters = [i for i in range(g) for _ in range(per)]
    for _ in range(runs):
        latent = rng.random(g) < p
        noisy = np.where(rng.random((g, per)) < 0.85, latent[:, None], rng.random((g, per)) < p)
        x = noisy.ravel().astype(float)
        found, plain = clustered_rate(x, clusters), wilson(int(x.sum()), x.size)
        hits += found.low <= p <= found.high
        naive += plain.low <= p <= plain.high
    assert hits / runs > 0.93
    assert naive / runs < 0.88


def test_coverage_of_the_clustered_mean(rng):
    runs, clusters = 600, [i for i in range(25) for _ in range(4)]
    hits = 0
    for _ in range(runs):
        x = np.repeat(rng.normal(size=25), 4) + rng.normal(size=100)
        found = clustered_mean(x, clusters)
        hits += found.low <= 0 <= found.high
    assert hits / runs == pytest.approx(0.95, abs=0.03)


def test_the_cluster_bootstrap_agrees_with_the_clustered_error(rng):
    clusters = [i for i in range(60) for _ in range(3)]
    x = np.repeat(rng.normal(size=60), 3) + 0.3 * rng.normal(size=180)
    found = cluster_bootstrap(lambda i: float(x[i].mean()), clusters, resamples=4000)
    assert found.estimate == pytest.approx(x.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * clustered_se(x, clusters), rel=0.08)


def test_one_cluster_tells_nothing_of_its_spread():
    assert clustered_se([0, 1], ["a", "a"]) is None and design_effect([0, 1], ["a", "a"]) is None
    found = clustered_mean([1.0, 2.0], ["a", "a"])
    assert found.estimate == 1.5 and found.low is None and "two clusters" in found.reason
    assert cluster_bootstrap(lambda i: 0.0, ["a", "a"]).estimate is None
    assert clustered_rate([], []).estimate is None and clustered_mean([], []).estimate is None


@pytest.mark.parametrize("x, clusters", [([0, 1], ["a"]), ([0, 2], None), ([-1, 1], None)])
def test_what_does_not_fit_is_refused(x, clusters):
    with pytest.raises(UsageError):
        clustered_rate(x, clusters)
