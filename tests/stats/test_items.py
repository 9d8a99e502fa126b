"""Item analysis: on simulated tests whose bad items are known, and against definitions."""

from __future__ import annotations

import numpy as np
import pytest

from fivefold.errors import UsageError
from fivefold.stats import complete_scores, item_analysis


def rasch(rng, subjects=60, items=40, wrong=()):
    ability, difficulty = rng.normal(0, 1.5, subjects), rng.normal(0, 1, items)
    p = 1 / (1 + np.exp(-(ability[:, None] - difficulty)))
    x = (rng.random((subjects, items)) < p).astype(float)
    x[:, list(wrong)] = 1 - x[:, list(wrong)]
    return x, difficulty


def test_wrong_keys_are_found_and_good_ones_are_left_alone(rng):
    wrong, found, false = (3, 17, 29), 0, 0
    for _ in range(20):
        x, _ = rasch(rng, wrong=wrong)
        flagged = item_analysis(x, [str(i) for i in range(40)]).flagged("suspect")
        found += len(set(flagged) & {"3", "17", "29"})
        false += len(set(flagged) - {"3", "17", "29"})
    assert found >= 0.6 * 60
    assert false <= 2


def test_without_a_wrong_key_a_benchmark_shows_none_with_the_level(rng):
    hits = sum(bool(item_analysis(rasch(rng)[0], list("x" * 40)).flagged("suspect")) for _ in range(60))
    assert hits <= 5


def test_difficulty_orders_as_the_truth(rng):
    x, difficulty = rasch(rng, subjects=400)
    found = [i.difficulty for i in item_analysis(x, [str(i) for i in range(40)]).items]
    assert np.corrcoef(found, -difficulty)[0, 1] > 0.97


def test_discrimination_is_the_correlation_with_the_rest(rng):
    x, _ = rasch(rng, subjects=30, items=6)
    found = item_analysis(x, list("abcdef")).items
    for j in range(6):
        rest = np.delete(x, j, axis=1).sum(axis=1)
        assert found[j].discrimination == pytest.approx(np.corrcoef(x[:, j], rest)[0, 1])


def test_alpha_is_kr20_and_more_cases_raise_it_as_foretold(rng):
    x, _ = rasch(rng, subjects=4000, items=20)
    found = item_analysis(x, [str(i) for i in range(20)])
    p = x.mean(axis=0)
    kr20 = 20 / 19 * (1 - (p * (1 - p)).sum() / x.sum(axis=1).var())
    assert found.alpha == pytest.approx(kr20, abs=1e-3)
    need = found.cases_for_90
    longer, _ = rasch(rng, subjects=4000, items=need)
    assert item_analysis(longer, [str(i) for i in range(need)]).alpha == pytest.approx(0.9, abs=0.03)


def test_items_that_tell_nothing_are_named_and_few_subjects_give_no_correlation():
    x = [[1, 0, 1], [1, 0, 0], [1, 0, 1]]
    found = item_analysis(x, ["easy", "hard", "both"])
    assert found.flagged("ceiling") == ("easy",) and found.flagged("floor") == ("hard",)
    assert all(i.discrimination is None for i in found.items)
    assert item_analysis([[1, 0]], ["a", "b"]).alpha is None


def test_only_complete_cases_are_compared():
    table, ids, left = complete_scores({"m1": {"a": 1.0, "b": 0.0}, "m2": {"b": 1.0, "c": 1.0}})
    assert table.tolist() == [[0.0], [1.0]] and ids == ["b"] and left == ["a", "c"]
    with pytest.raises(UsageError):
        item_analysis([[float("nan")]], ["a"])
    with pytest.raises(UsageError):
        item_analysis([[1.0, 0.0]], ["a"])
