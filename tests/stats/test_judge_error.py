"""Judge error: the correction by its definition, its intervals by coverage, prediction-powered means by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score

from fivefold.errors import UsageError
from fivefold.stats import Confusion, cohen_kappa, ppi_mean, rogan_gladen, wilson

bits = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


@given(bits)
def test_confusion_counts_are_scikit_learns(pairs):
    labels, judged = [a for a, _ in pairs], [b for _, b in pairs]
    c = Confusion.of(labels, judged)
    assert c.tp + c.fn + c.tn + c.fp == len(pairs)
    if any(labels):
        assert c.sensitivity().estimate == pytest.approx(recall_score(labels, judged))
    else:
        assert c.sensitivity().estimate is None
    if any(judged):
        assert c.precision().estimate == pytest.approx(precision_score(labels, judged))
    assert c.accuracy().estimate == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert c.specificity() == wilson(c.tn, c.tn + c.fp)


@pytest.mark.parametrize("p, se, sp", [(0.3, 0.9, 0.8), (0.05, 0.75, 0.98), (0.7, 0.6, 0.7)])
def test_the_correction_inverts_the_judge(p, se, sp):
    judge = Confusion(tp=int(1000 * se), fn=1000 - int(1000 * se), tn=int(1000 * sp), fp=1000 - int(1000 * sp))
    apparent = p * se + (1 - p) * (1 - sp)
    assert rogan_gladen(apparent * 1000, 1000, judge).estimate == pytest.approx(p, abs=1e-9)


def test_a_perfect_judge_on_many_labels_changes_little():
    judge = Confusion(tp=100_000, fn=0, tn=100_000, fp=0)
    found, plain = rogan_gladen(30, 100, judge), wilson(30, 100)
    assert found.estimate == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.005)


def test_the_interval_is_the_papers():
    judge = Confusion(tp=178, fn=1, tn=358, fp=28)
    found = rogan_gladen(4060, 11284, judge)
    apparent, se, sp = 4060 / 11284, 178 / 179, 358 / 386
    assert found.estimate == pytest.approx((apparent + sp - 1) / (se + sp - 1))
    # Lang and Reiczigel's formulas (2, 4, 6, 7, 16, 17) written out once more, term by term.
    z = 1.959963984540054
    n_, a_ = 11284 + z**2, (4060 + z**2 / 2) / (11284 + z**2)
    se_, sp_ = (178 + 1) / (179 + 2), (358 + 1) / (386 + 2)
    p_ = (a_ + sp_ - 1) / (se_ + sp_ - 1)
    shift = 2 * z**2 * (p_ * se_ * (1 - se_) / 181 - (1 - p_) * sp_ * (1 - sp_) / 388)
    variance = (a_ * (1 - a_) / n_ + p_**2 * se_ * (1 - se_) / 181 + (1 - p_) ** 2 * sp_ * (1 - sp_) / 388) / (
        se_ + sp_ - 1
    ) ** 2
    expected = (p_ + shift - z * variance**0.5, p_ + shift + z * variance**0.5)
    assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["lang-reiczigel", "bootstrap"])
@pytest.mark.parametrize("p, se, sp, labels", [(0.1, 0.9, 0.95, 60), (0.4, 0.8, 0.85, 100), (0.02, 0.85, 0.97, 150)])
def test_coverage_with_few_labels(rng, method, p, se, sp, labels):
    runs = 600 if method == "lang-reiczigel" else 200
    hits = 0
    for _ in range(runs):
        k = rng.binomial(200, p * se + (1 - p) * (1 - sp))
        tp, tn = rng.binomial(labels, se), rng.binomial(labels, sp)
        found = rogan_gladen(k, 200, Confusion(tp=tp, fn=labels - tp, tn=tn, fp=labels - tn), method=method)
        hits += found.low is not None and found.low <= p <= found.high
    assert hits / runs > (0.93 if method == "lang-reiczigel" else 0.91)


def test_without_correction_or_without_the_doubt_it_would_not_cover(rng):
    raw = known = full = 0
    p, se, sp, labels, runs = 0.1, 0.85, 0.9, 50, 400
    for _ in range(runs):
        k = rng.binomial(1000, p * se + (1 - p) * (1 - sp))
        tp, tn = rng.binomial(labels, se), rng.binomial(labels, sp)
        apparent, youden = wilson(k, 1000), (tp + tn) / labels - 1
        raw += apparent.low <= p <= apparent.high
        ends = [(end + tn / labels - 1) / youden for end in (apparent.low, apparent.high)]
        known += ends[0] <= p <= ends[1]
        found = rogan_gladen(k, 1000, Confusion(tp=tp, fn=labels - tp, tn=tn, fp=labels - tn))
        full += found.low <= p <= found.high
    assert raw / runs < 0.01, "uncorrected"
    assert known / runs < 0.70, "corrected as if the judge's error were known"
    assert full / runs > 0.93


@pytest.mark.parametrize(
    "judge, says",
    [
        (Confusion(tp=5, fn=5, tn=5, fp=5), "no better than chance"),
        (Confusion(tp=1, fn=9, tn=1, fp=9), "no better than chance"),
        (Confusion(tp=0, fn=0, tn=10, fp=0), "not measured on both"),
        (Confusion(tp=10, fn=0, tn=0, fp=0), "not measured on both"),
    ],
)
def test_a_useless_judge_gives_no_number(judge, says):
    for method in ("lang-reiczigel", "bootstrap"):
        found = rogan_gladen(5, 20, judge, method=method)
        assert found.estimate is None and found.low is None and says in found.reason


def test_hardly_any_labels_give_no_interval_by_bootstrap():
    found = rogan_gladen(5, 20, Confusion(tp=2, fn=1, tn=2, fp=1), method="bootstrap")
    assert found.estimate is None and "few labels" in found.reason


def test_a_corrected_rate_outside_is_said_not_hidden():
    found = rogan_gladen(2, 100, Confusion(tp=45, fn=5, tn=45, fp=5))
    assert found.estimate == 0 and "-0.1" in found.reason
    assert found.low == 0 and 0 < found.high < 0.1
    high = rogan_gladen(99, 100, Confusion(tp=45, fn=5, tn=45, fp=5))
    assert high.estimate == 1 and "1.1" in high.reason and high.high == 1


@given(st.integers(0, 50), st.integers(1, 50), st.tuples(*[st.integers(0, 30)] * 4))
def test_it_is_an_interval_or_nothing(k, n, counts):
    judge = Confusion(tp=counts[0], fn=counts[1], tn=counts[2], fp=counts[3])
    found = rogan_gladen(min(k, n), n, judge)
    if found.estimate is None:
        assert found.low is found.high is None and found.reason
    else:
        assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_no_cases():
    assert rogan_gladen(0, 0, Confusion(tp=9, fn=1, tn=9, fp=1)).estimate is None


def sample(rng, n, useful=True):
    truth = (rng.random(n) < 0.3).astype(float)
    judged = np.where(rng.random(n) < (0.85 if useful else 0.5), truth, 1 - truth)
    return truth, judged


@pytest.mark.parametrize("tuned", [True, False])
def test_ppi_covers_and_beats_the_labels_alone(rng, tuned):
    runs, hits, widths, alone = 400, 0, [], []
    for _ in range(runs):
        truth, judged = sample(rng, 1100)
        found = ppi_mean(truth[:100], judged[:100], judged[100:], tuned=tuned)
        hits += found.low <= 0.3 <= found.high
        widths.append(found.high - found.low)
        alone.append(2 * 1.96 * truth[:100].std(ddof=1) / 10)
    assert hits / runs > 0.925
    assert np.mean(widths) < np.mean(alone)


def test_a_useless_judge_costs_ppi_nothing(rng):
    tuned, plain, alone = [], [], []
    for _ in range(200):
        truth, judged = sample(rng, 600, useful=False)
        for into, flag in ((tuned, True), (plain, False)):
            found = ppi_mean(truth[:100], judged[:100], judged[100:], tuned=flag)
            into.append(found.high - found.low)
        alone.append(2 * 1.96 * truth[:100].std(ddof=1) / 10)
    assert np.mean(tuned) < 1.02 * np.mean(alone) < np.mean(plain)


def test_ppi_needs_a_sample():
    assert ppi_mean([1], [1], [0, 1, 1]).estimate is None
    assert ppi_mean([1, 0], [1, 0], []).estimate is None
    same = ppi_mean([1, 1], [1, 1], [1, 1])
    assert same.estimate == 1 and same.low is None and "spread" in same.reason
    with pytest.raises(UsageError):
        ppi_mean([1, 0], [1], [1, 1])


@given(bits)
def test_kappa_is_scikit_learns(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    if len(set(a) | set(b)) == 1:
        assert cohen_kappa(a, b) is None, "both always say the same one thing"
    else:
        assert cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)
    assert cohen_kappa([], []) is None


def test_what_is_not_labelled_is_refused():
    with pytest.raises(UsageError):
        Confusion.of([0, 1], [1])
    with pytest.raises(UsageError):
        Confusion.of([0, 0.5], [1, 0])
    with pytest.raises(UsageError):
        Confusion(tp=-1, fn=0, tn=0, fp=0)
    with pytest.raises(UsageError):
        cohen_kappa([1], [1, 2])
