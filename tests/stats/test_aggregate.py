"""From outcomes to measurements: three kinds of outcome never mixed, nothing scored never a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivefold.errors import UsageError
from fivefold.stats import (
    Confusion,
    clustered_rate,
    correct_rate,
    measure_change,
    measure_mean,
    measure_rate,
    more_cases,
    rogan_gladen,
    wilson,
)
from fivefold.types import Errored, Scored, Unscored, canonical, plain

NAMES = {"metric": "attack_success", "subject": "f" * 64, "subject_name": "base", "safer": "lower"}
BAD = [Unscored(reason="no answer asked"), Errored(error="timeout"), Errored(error="timeout")]


def scored(*values: float) -> list[Scored]:
    return [Scored(value=v, label="x", judge="j") for v in values]


def rate(outcomes, **fields):
    return measure_rate(outcomes, **{**NAMES, **fields})


def test_counts_are_kept_apart_and_the_interval_is_wilsons():
    m = rate([*scored(1, 0, 0, 1), *BAD], dataset="d", judge="j", code="c", run="r", slice={"language": "ko"})
    expected = wilson(2, 4)
    assert (m.estimate, m.low, m.high, m.method) == (0.5, expected.low, expected.high, "wilson")
    assert (m.n_scored, m.n_unscored, m.n_errored) == (4, 1, 2)
    assert (m.dataset, m.judge, m.code, m.run, m.slice) == ("d", "j", "c", "r", {"language": "ko"})
    assert m.risk_bound == m.high


@pytest.mark.parametrize("outcomes", [[], BAD])
def test_nothing_scored_is_no_measurement(outcomes):
    m = rate(outcomes)
    assert (m.estimate, m.low, m.high, m.n_scored, m.measured) == (None, None, None, 0, False)
    assert m.metadata["reason"] == "no cases"


@given(st.lists(st.sampled_from([*scored(0, 1), *BAD[:2]]), max_size=30))
def test_errors_never_move_the_estimate(outcomes):
    m = rate(outcomes)
    only = rate([o for o in outcomes if isinstance(o, Scored)])
    assert (m.estimate, m.low, m.high) == (only.estimate, only.low, only.high)
    assert m.n_scored + m.n_unscored + m.n_errored == len(outcomes)
    canonical(plain(m))


def test_repeated_clusters_widen_and_follow_their_case():
    outcomes = [*scored(1, 1, 0, 0), Errored(error="x"), *scored(1, 1)]
    clusters = ["a", "a", "b", "b", "b", "c", "c"]
    m = rate(outcomes, clusters=clusters)
    expected = clustered_rate([1, 1, 0, 0, 1, 1], ["a", "a", "b", "b", "c", "c"])
    assert (m.low, m.high, m.method) == (expected.low, expected.high, "wilson-effective")
    assert m.metadata["clusters"] == 3 and m.metadata["effective_n"] <= 3
    assert rate(outcomes, clusters=range(7)).method == "wilson"
    with pytest.raises(UsageError):
        rate(outcomes, clusters=["a"])


def test_graded_scores_are_averaged_and_other_scores_refused():
    m = rate(scored(0.25, 0.5, 0.75))
    assert m.estimate == 0.5 and 0 <= m.low < 0.5 < m.high <= 1
    with pytest.raises(UsageError, match="not a rate"):
        rate(scored(3.0))


def test_means_of_any_range():
    m = measure_mean([*scored(3, 5, 10), *BAD], **NAMES, unit="nats")
    assert m.estimate == 6 and m.low < 6 < m.high and m.unit == "nats" and m.n_errored == 2
    clustered = measure_mean(scored(3, 3, 10, 10), **NAMES, unit="nats", clusters=["a", "a", "b", "b"])
    assert clustered.method == "t-clustered" and clustered.high - clustered.low > 7
    assert measure_mean(BAD, **NAMES, unit="nats").estimate is None


def by_id(outcomes):
    return {f"c{i}": o for i, o in enumerate(outcomes)}


def test_change_is_paired_and_lists_the_flips():
    before = by_id([*scored(1, 1, 1, 0, 0), BAD[0], BAD[1]])
    after = by_id([*scored(0, 0, 1, 1, 0), *scored(1), BAD[0]])
    m = measure_change(before, after, **{**NAMES, "metric": "attack_success_change"}, run="r")
    assert m.estimate == pytest.approx(-0.2) and m.unit == "difference" and m.method == "tango"
    assert (m.n_scored, m.n_unscored, m.n_errored) == (5, 1, 1)
    assert (m.metadata["rose"], m.metadata["fell"], m.metadata["same"]) == (["c3"], ["c0", "c1"], 2)
    assert m.metadata["lost"] == ["c5"] and m.metadata["p_value"] == pytest.approx(0.625)
    canonical(plain(m))


def test_change_of_graded_scores_is_bootstrapped_and_has_no_mcnemar():
    m = measure_change(by_id(scored(0.1, 0.5, 0.9, 0.2)), by_id(scored(0.2, 0.7, 0.8, 0.9)), **NAMES)
    assert m.method == "paired-bootstrap" and m.metadata["p_value"] is None


def test_change_in_clusters_is_wider_and_has_no_mcnemar():
    before, after = by_id(scored(*[1, 1, 1, 0, 0, 0] * 4)), by_id(scored(*[0, 0, 0, 0, 0, 0] * 4))
    clusters = {f"c{i}": i // 3 for i in range(24)}
    plain_, clustered = (
        measure_change(before, after, **NAMES),
        measure_change(before, after, **NAMES, clusters=clusters),
    )
    assert clustered.estimate == plain_.estimate == -0.5
    assert clustered.high > plain_.high and clustered.low < plain_.low
    assert plain_.metadata["p_value"] < 0.001 and clustered.metadata["p_value"] is None


@pytest.mark.parametrize("before, after", [({}, {}), (by_id(BAD), by_id(BAD)), (by_id(scored(1)), {})])
def test_nothing_in_common_is_no_change(before, after):
    m = measure_change(before, after, **NAMES)
    assert m.estimate is None and m.n_scored == 0 and m.metadata["p_value"] is None


def test_a_corrected_rate_names_the_raw_one():
    judge = Confusion(tp=90, fn=10, tn=80, fp=20)
    raw = replace(rate(scored(*[1] * 30, *[0] * 70)), id="a" * 64)
    corrected = correct_rate(raw, judge)
    expected = rogan_gladen(30, 100, judge)
    assert (corrected.estimate, corrected.low, corrected.high) == (expected.estimate, expected.low, expected.high)
    assert corrected.corrects == raw.id and corrected.id == "" and corrected.metric == raw.metric
    assert corrected.metadata["judge_counts"] == {"tp": 90, "fn": 10, "tn": 80, "fp": 20}
    with pytest.raises(UsageError, match="no id"):
        correct_rate(replace(raw, id=""), judge)


def test_correction_keeps_the_clusters_and_says_when_it_cannot():
    judge = Confusion(tp=90, fn=10, tn=80, fp=20)
    outcomes, clusters = scored(*[1] * 30, *[0] * 60), [i // 3 for i in range(90)]
    clustered = correct_rate(replace(rate(outcomes, clusters=clusters), id="a"), judge)
    plain_ = correct_rate(replace(rate(outcomes), id="a"), judge)
    assert clustered.high - clustered.low > plain_.high - plain_.low
    useless = correct_rate(replace(rate(outcomes), id="a"), Confusion(tp=1, fn=1, tn=1, fp=1))
    assert useless.estimate is None and "chance" in useless.metadata["reason"]
    assert correct_rate(replace(rate(BAD), id="a"), judge).estimate is None


@pytest.mark.parametrize("hits, n, per", [(1, 40, 1), (5, 90, 1), (6, 90, 3), (0, 30, 3)])
def test_more_cases_would_clear_the_threshold(hits, n, per):
    """Cases with the same mix, as many as are asked for, do clear it; clearly fewer do not."""

    def measured(times: float):
        total, k = round(n * times), round(hits * times)
        values = [1.0] * k + [0.0] * (total - k)
        return rate(scored(*values), clusters=[i // per for i in range(total)])

    m = measured(1)
    more = more_cases(m, 0.1, "lower")
    assert more is not None and more > 0
    assert measured(1 + 1.3 * more / n).high <= 0.1 < measured(1 + 0.5 * more / n).high


def test_more_cases_of_a_difference_and_of_nothing():
    before, after = by_id(scored(*[1] * 6, *[0] * 54)), by_id(scored(*[0] * 3, *[1] * 3, *[0] * 54))
    m = measure_change(before, after, **NAMES)
    more = more_cases(m, -0.02, "lower")
    assert more is not None and more > 0 and more_cases(m, m.high, "lower") == 0
    assert more_cases(m, -0.2, "lower") is None, "on the wrong side"
    assert more_cases(rate(BAD), 0.1, "lower") is None
    assert more_cases(rate(scored(1)), 0.1, "neither") is None
