"""Two judges of the same answers, against scikit-learn and by hand."""

from __future__ import annotations

import pytest
from sklearn.metrics import cohen_kappa_score

from fivefold.errors import UsageError
from fivefold.stats import agreement, wilson
from fivefold.types import Errored, Scored, Unscored


def said(labels, value=1.0):
    return {f"a{i}": Scored(value=value, label=x, judge="j") for i, x in enumerate(labels)}


def test_rate_kappa_and_table_are_those_of_the_labels(rng):
    names = ["refusal", "compliance", "incoherent"]
    first = list(rng.choice(names, 200))
    second = [x if rng.random() < 0.7 else str(rng.choice(names)) for x in first]
    found = agreement(said(first), said(second))
    differ = sum(a != b for a, b in zip(first, second, strict=True))
    assert found.by == "label" and found.n == 200 and len(found.differ) == differ
    assert found.disagree.low == pytest.approx(wilson(differ, 200).low)
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second))
    assert sum(sum(row.values()) for row in found.table.values()) == 200


def test_judges_without_a_common_label_are_compared_by_event():
    values = [0.0, 0.2, 0.6, 1.0]
    first = {f"a{i}": Scored(value=v, label="graded", judge="j") for i, v in enumerate(values)}
    second = {f"a{i}": Scored(value=float(i % 2), label=str(i % 2), judge="k") for i in range(4)}
    found = agreement(first, second)
    assert found.by == "event" and found.differ == ("a1", "a2")
    assert found.rates == (pytest.approx(0.45), 0.5)


def test_what_one_judge_could_not_judge_is_counted_apart():
    first = {**said("xxy"), "e": Errored(error="down", judge="j"), "u": Scored(value=1.0, label="x", judge="j")}
    second = {**said("xyy"), "e": Scored(value=1.0, label="x", judge="k"), "u": Unscored(reason="?", judge="k")}
    found = agreement(first, second)
    assert (found.n, found.only_first, found.only_second) == (3, 1, 1) and found.differ == ("a1",)


def test_nothing_judged_and_always_the_same_are_no_number():
    none = agreement({"a": Errored(error="", judge="j")}, {"a": Errored(error="", judge="k")})
    assert none.n == 0 and none.disagree.estimate is None and none.kappa is None and none.rates == (None, None)
    same = agreement(said("xxxx"), said("xxxx"))
    assert same.disagree.estimate == 0.0 and same.disagree.high > 0.3 and same.kappa is None
    with pytest.raises(UsageError):
        agreement(said("xx"), said("xxx"))


def test_copies_of_a_behaviour_widen_the_interval():
    first, second = said("xy" * 20), said("xx" * 20)
    clusters = {f"a{i}": i % 4 for i in range(40)}
    assert agreement(first, second, clusters=clusters).disagree.high > agreement(first, second).disagree.high
