"""Paired comparison: against scipy, statsmodels, published examples, an independent likelihood, and by coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as reference
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep

from fivefold.errors import UsageError
from fivefold.stats import (
    flipped,
    mcnemar,
    non_inferior,
    paired_bootstrap,
    paired_difference,
    unpaired_difference,
)
from fivefold.types import Errored, Scored, Unscored


def rows(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([1, 1, 0, 0], [both, only_first, only_second, neither])
    second = np.repeat([1, 0, 1, 0], [both, only_first, only_second, neither])
    return first.astype(float), second.astype(float)


tables = st.tuples(*[st.integers(0, 25)] * 4).filter(lambda t: sum(t) > 0)


def scored(**values: float):
    return {name: Scored(value=v, label="x", judge="j") for name, v in values.items()}


@given(tables)
def test_exact_mcnemar_is_statsmodels(t):
    expected = statsmodels_mcnemar([[t[0], t[1]], [t[2], t[3]]], exact=True).pvalue
    assert mcnemar(*rows(*t), method="exact").p_value == pytest.approx(expected)


@given(tables)
def test_mid_p_is_the_exact_p_less_half_of_what_was_seen(t):
    b, c = t[1], t[2]
    found = mcnemar(*rows(*t)).p_value
    if b + c == 0:
        assert found == 1
    else:
        expected = 2 * reference.binom.cdf(min(b, c), b + c, 0.5) - reference.binom.pmf(min(b, c), b + c, 0.5)
        assert found == pytest.approx(min(1, expected))


def test_published_example():
    """Cavo et al. 2012 as worked out in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables
    (2017), ch. 8: response before and after consolidation, 59 / 6 / 16 / 80. Their difference is first minus second."""
    data = rows(59, 6, 16, 80)
    assert mcnemar(*data, method="exact").p_value == pytest.approx(0.052479, abs=1e-6)
    assert mcnemar(*data).p_value == pytest.approx(0.034690, abs=1e-6)
    tango, newcombe = paired_difference(*data), paired_difference(*data, method="newcombe")
    assert tango.estimate == pytest.approx(0.0621, abs=5e-5)
    assert (tango.low, tango.high) == pytest.approx((0.0054, 0.1240), abs=5e-5)
    assert (newcombe.low, newcombe.high) == pytest.approx((0.0046, 0.1186), abs=5e-5)


@settings(max_examples=40)
@given(tables)
def test_tangos_ends_are_where_the_score_test_just_rejects(t):
    """The constrained maximum is found here by a numerical search over the likelihood, not by the closed form."""
    first, second = rows(*t)
    n, up, down = sum(t), t[2], t[1]
    found = paired_difference(first, second)

    def statistic(d: float) -> float:
        def loss(q: float) -> float:
            parts = ((up, q + d), (down, q), (n - up - down, 1 - 2 * q - d))
            return -sum(k * math.log(max(p, 1e-300)) for k, p in parts if k)

        lowest, highest = max(0.0, -d), (1 - d) / 2
        q = optimize.minimize_scalar(loss, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}).x
        return (up - down - n * d) / math.sqrt(n * (2 * q + d - d * d))

    for end, z in ((found.low, 1.959964), (found.high, -1.959964)):
        if -1 < end < 1:
            assert statistic(end) == pytest.approx(z, abs=2e-3)


@given(tables)
def test_swapping_the_models_mirrors_the_interval(t):
    first, second = rows(*t)
    for method in ("tango", "newcombe"):
        a, b = paired_difference(first, second, method=method), paired_difference(second, first, method=method)
        assert (a.low, a.high) == pytest.approx((-b.high, -b.low), abs=1e-9)
        assert a.low - 1e-12 <= a.estimate <= a.high + 1e-12


def test_no_flips_still_leave_doubt():
    first, second = rows(10, 0, 0, 90)
    tango = paired_difference(first, second)
    assert tango.estimate == 0 and tango.low < 0 < tango.high
    assert tango.high == pytest.approx(
        reference.norm.ppf(0.975) ** 2 / (100 + reference.norm.ppf(0.975) ** 2), abs=1e-6
    )
    bootstrap = paired_difference(first, second, method="bootstrap")
    assert bootstrap.estimate == 0 and bootstrap.low is None and "spread" in bootstrap.reason


def multinomial(rng, n, both, first, second):
    return rows(*rng.multinomial(n, [both, first, second, 1 - both - first - second]))


@pytest.mark.parametrize("method", ["tango", "newcombe", "bootstrap"])
def test_coverage(rng, method):
    runs, hits = 400, 0
    for _ in range(runs):
        found = paired_difference(*multinomial(rng, 80, 0.3, 0.05, 0.15), method=method)
        hits += found.low is not None and found.low <= 0.10 <= found.high
    assert hits / runs > 0.925


def test_coverage_at_rare_flips(rng):
    """Few discordant pairs: where safety comparisons live."""
    runs = 500
    hits = sum(
        (f := paired_difference(*multinomial(rng, 60, 0.02, 0.01, 0.03))).low <= 0.02 <= f.high for _ in range(runs)
    )
    assert hits / runs > 0.93


def test_coverage_in_clusters(rng):
    """Three languages of one behaviour flip together: the plain interval is too narrow, the clustered one is not."""
    runs, g, hits, plain = 400, 50, 0, 0
    clusters = [i for i in range(g) for _ in range(3)]
    for _ in range(runs):
        kinds = rng.choice(4, size=g, p=[0.3, 0.05, 0.2, 0.45])
        kinds = np.repeat(kinds, 3)
        loose = rng.random(kinds.size) < 0.1
        kinds = np.where(loose, rng.choice(4, size=kinds.size, p=[0.3, 0.05, 0.2, 0.45]), kinds)
        first, second = np.isin(kinds, (0, 1)).astype(float), np.isin(kinds, (0, 2)).astype(float)
        clustered = paired_difference(first, second, clusters=clusters)
        naive = paired_difference(first, second)
        hits += clustered.low <= 0.15 <= clustered.high
        plain += naive.low <= 0.15 <= naive.high
    assert hits / runs > 0.93
    assert plain / runs < 0.88


def test_clustered_pairs_without_flips_count_clusters():
    zeros = np.zeros(30)
    clusters = [i // 3 for i in range(30)]
    assert paired_difference(zeros, zeros, clusters=clusters).high == pytest.approx(
        paired_difference(np.zeros(10), np.zeros(10)).high
    )
    with pytest.raises(UsageError, match="no clusters"):
        paired_difference(zeros, zeros, method="newcombe", clusters=clusters)


def test_paired_finds_what_unpaired_does_not(rng):
    """A regression of two points at n = 1,000 with strongly correlated items."""
    runs, paired, unpaired = 200, 0, 0
    for _ in range(runs):
        first, second = multinomial(rng, 1000, 0.68, 0.022, 0.002)
        paired += mcnemar(first, second).p_value <= 0.05
        found = unpaired_difference(int(first.sum()), 1000, int(second.sum()), 1000)
        unpaired += not found.low <= 0 <= found.high
    assert paired / runs > 0.85 and unpaired / runs < 0.05


def test_the_bootstrap_is_scipys_bca_on_differences(rng):
    d = rng.exponential(size=50) - 0.5
    expected = reference.bootstrap((d,), np.mean, n_resamples=20_000, method="BCa", rng=rng).confidence_interval
    found = paired_bootstrap(np.zeros(50), d, resamples=20_000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_the_cluster_bootstrap_is_wider_when_clusters_move_together(rng):
    d = np.repeat(rng.normal(size=40), 5)
    clusters = [i for i in range(40) for _ in range(5)]
    plain, clustered = paired_bootstrap(np.zeros(200), d), paired_bootstrap(np.zeros(200), d, clusters=clusters)
    assert clustered.high - clustered.low > 1.7 * (plain.high - plain.low)


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 40), st.integers(1, 40))
def test_the_unpaired_difference_is_statsmodels_newcombe(k1, n1, k2, n2):
    k1, k2 = min(k1, n1), min(k2, n2)
    expected = confint_proportions_2indep(k2, n2, k1, n1, method="newcomb", compare="diff")
    found = unpaired_difference(k1, n1, k2, n2)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert unpaired_difference(0, 0, 1, 2).estimate is None


def test_non_inferiority_has_a_direction_and_a_margin():
    worse = rows(200, 0, 6, 94)  # second has the event in six more cases of 300
    assert non_inferior(*worse, margin=0.06, safer="lower").shown is True
    assert non_inferior(*worse, margin=0.03, safer="lower").shown is False, "the bound, not the estimate, decides"
    assert non_inferior(*worse, margin=0.0, safer="higher").shown is True
    found = non_inferior(*worse, margin=0.06, safer="lower")
    assert found.bound == found.difference.high and found.difference.estimate == pytest.approx(0.02)
    assert non_inferior([], [], margin=0.1, safer="lower").shown is None
    with pytest.raises(UsageError):
        non_inferior(*worse, margin=0.1, safer="neither")


def test_non_inferiority_errs_at_most_as_often_as_it_says(rng):
    """The second is worse by exactly the margin: "shown" must be rare (2.5% at a level of 95%)."""
    runs = 800
    wrong = sum(
        non_inferior(*multinomial(rng, 150, 0.2, 0.05, 0.15), margin=0.10, safer="lower").shown is True
        for _ in range(runs)
    )
    assert wrong / runs < 0.045


def test_graded_scores_take_the_bootstrap(rng):
    first = rng.random(60)
    found = non_inferior(first, first - 0.01 + 0.001 * rng.normal(size=60), margin=0.05, safer="higher")
    assert found.shown is True and found.difference.method == "paired-bootstrap"


def test_flips_both_ways_by_id():
    before = {**scored(a=1, b=0, c=1, d=0, e=0), "f": Errored(error="x"), "g": Unscored(reason="r")}
    after = {**scored(a=0, b=1, c=1, d=0, f=1), "e": Unscored(reason="r"), "g": Errored(error="x")}
    found = flipped(before, after)
    assert (found.rose, found.fell, found.same) == (("b",), ("a",), 2)
    assert found.lost == ("e", "f"), "scored on one side only; g on neither"
    assert found.n == 4


@pytest.mark.parametrize("first, second", [([1], [1, 0]), ([0.5], [1]), ([1, math.nan], [1, 0])])
def test_what_is_not_paired_is_refused(first, second):
    with pytest.raises(UsageError):
        paired_difference(first, second)
    with pytest.raises(UsageError):
        mcnemar(first, second)
