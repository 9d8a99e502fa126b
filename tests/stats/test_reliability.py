"""Reliability at k: against enumeration of all subsets, and by simulation."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivefold.errors import UsageError
from fivefold.stats import all_of_k, any_of_k, reliability
from fivefold.types import Errored, Scored


def row(*values):
    return [Scored(value=float(v), label="", judge="j") for v in values]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_both_are_means_over_all_subsets(successes, data):
    k = data.draw(st.integers(1, len(successes)))
    subsets = list(combinations(successes, k))
    n, c = len(successes), sum(successes)
    assert any_of_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert all_of_k(n, c, k) == pytest.approx(sum(map(all, subsets)) / len(subsets))


def test_estimates_match_the_truth_on_average(rng):
    p = rng.beta(2, 1, 4000)
    answers = {str(i): row(*(rng.random(6) < q)) for i, q in enumerate(p)}
    found = reliability(answers, 3)
    assert found.any_of_k.estimate == pytest.approx(float((1 - (1 - p) ** 3).mean()), abs=0.015)
    assert found.all_of_k.estimate == pytest.approx(float((p**3).mean()), abs=0.02)
    assert found.all_of_k.low < float((p**3).mean()) < found.all_of_k.high


def test_the_interval_covers(rng):
    held = 0
    for _ in range(300):
        p = rng.beta(2, 2, 60)
        found = reliability({str(i): row(*(rng.random(4) < q)) for i, q in enumerate(p)}, 2).all_of_k
        held += found.low <= 0.3 <= found.high  # E[p²] of Beta(2, 2) is 0.3
    assert 0.91 <= held / 300 <= 0.99


def test_an_error_is_no_sample():
    answers = {"a": [*row(1, 1), Errored(error="x")], "b": row(1, 0, 1)}
    found = reliability(answers, 3)
    assert found.left_out == ("a",) and found.cases == 1
    assert found.all_of_k.estimate == 0.0 and found.any_of_k.estimate == 1.0
    nothing = reliability({"a": row(1)}, 2)
    assert nothing.all_of_k.estimate is None


def test_scores_in_between_are_refused():
    with pytest.raises(UsageError, match="0 or 1"):
        reliability({"a": row(0.5, 1)}, 1)
    with pytest.raises(UsageError):
        any_of_k(2, 1, 3)
