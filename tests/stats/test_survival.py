"""Kaplan-Meier against statsmodels, and at its edges."""

from __future__ import annotations

import numpy as np
import pytest

from fivefold.errors import UsageError
from fivefold.stats.survival import kaplan_meier, median_time


def test_shares_and_variances_match_statsmodels() -> None:
    survfunc = pytest.importorskip("statsmodels.duration.survfunc")
    rng = np.random.default_rng(3)
    times, events = rng.integers(1, 12, 60), rng.integers(0, 2, 60)
    ours, theirs = kaplan_meier(times, events), survfunc.SurvfuncRight(times, events)
    assert [s.time for s in ours] == list(theirs.surv_times)
    assert [s.share for s in ours] == pytest.approx(list(theirs.surv_prob))
    assert [s.at_risk for s in ours] == list(theirs.n_risk)
    for step, se in zip(ours, theirs.surv_prob_se, strict=True):
        if step.low is None or step.high is None:
            continue
        half = 1.959963984540054 * se / (step.share * abs(np.log(step.share)))
        assert (step.low, step.high) == pytest.approx((step.share ** np.exp(half), step.share ** np.exp(-half)))
        assert 0 <= step.low < step.share < step.high <= 1


def test_edges() -> None:
    assert kaplan_meier([], []) == [] and kaplan_meier([3, 4], [0, 0]) == []
    (only,) = kaplan_meier([2, 2], [1, 1])
    assert (only.share, only.low, only.high) == (0.0, None, None)
    assert median_time(kaplan_meier([1, 2, 3, 4], [1, 1, 1, 1])) == 2 and median_time([]) is None
    for times, events in (([1], [2]), ([-1], [1]), ([1, 2], [1])):
        with pytest.raises(UsageError):
            kaplan_meier(times, events)
