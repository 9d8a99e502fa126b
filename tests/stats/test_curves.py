"""Areas under the curve and operating points: against scikit-learn, by definition, and by coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference
from sklearn.metrics import roc_auc_score, roc_curve

from fivefold.errors import UsageError
from fivefold.stats import at_threshold, auroc, recall_at_fpr

scored = st.lists(st.tuples(st.integers(0, 8).map(float), st.integers(0, 1)), min_size=2, max_size=60).filter(
    lambda rows: len({y for _, y in rows}) == 2
)


@given(scored)
def test_the_area_is_scikit_learns(rows):
    s, y = zip(*rows, strict=True)
    for method in ("newcombe", "delong"):
        assert auroc(s, y, method=method).estimate == pytest.approx(roc_auc_score(y, s))
    found = auroc(s, y)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_full_separation_is_not_certainty():
    y = [0] * 20 + [1] * 20
    found = auroc(list(range(40)), y)
    assert found.estimate == 1 and 0.8 < found.low < 0.95 and found.high == 1
    delong = auroc(list(range(40)), y, method="delong")
    assert delong.estimate == 1 and delong.low is None and "overlap" in delong.reason


@pytest.mark.parametrize("method", ["newcombe", "delong"])
def test_coverage(rng, method):
    truth, runs, hits = float(reference.norm.cdf(1.2 / math.sqrt(2))), 600, 0
    y = [0] * 40 + [1] * 30
    for _ in range(runs):
        found = auroc(np.r_[rng.normal(size=40), rng.normal(1.2, size=30)], y, method=method)
        hits += found.low is not None and found.low <= truth <= found.high
    assert hits / runs > 0.925


@given(scored, st.sampled_from([0.0, 0.05, 0.1, 0.5]))
def test_the_operating_point_is_the_best_on_the_curve(rows, fpr):
    s, y = (np.array(v) for v in zip(*rows, strict=True))
    found = recall_at_fpr(s, y, fpr)
    false, true, _ = roc_curve(y, s, drop_intermediate=False)
    assert found.recall.estimate == pytest.approx(true[false <= fpr + 1e-12].max())
    assert found.false_positive_rate.estimate <= fpr + 1e-12
    assert found == at_threshold(s, y, found.threshold)


def test_one_class_gives_no_number():
    assert auroc([1, 2], [1, 1]).estimate is None and recall_at_fpr([1, 2], [0, 0], 0.1) is None
    assert at_threshold([1, 2], [0, 0], 1.5).recall.estimate is None


@pytest.mark.parametrize("s, y", [([1], [1, 0]), ([1, 2], [0, 2]), ([1, math.nan], [0, 1])])
def test_nonsense_is_refused(s, y):
    with pytest.raises(UsageError):
        auroc(s, y)
    with pytest.raises(UsageError):
        recall_at_fpr([1, 2], [0, 1], 1.0)
