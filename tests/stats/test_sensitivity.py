"""Sensitivity to the form of a prompt: against statsmodels' Q and by simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import cochrans_q

from fivefold.errors import UsageError
from fivefold.stats import cochran_q, sensitivity
from fivefold.types import Errored, Scored


def forms(x):
    rows = [{str(i): Scored(value=float(v), label="", judge="j") for i, v in enumerate(r)} for r in x]
    return {f"form {k}": row for k, row in enumerate(rows)}


def simulate(rng, v=5, n=150, between=0.05):
    """Binary scores whose chance depends on the case and, additively, on the form; the grand mean is 0.5."""
    p = 0.5 + rng.uniform(-0.25, 0.25, n)[None, :] + rng.normal(0, between, v)[:, None]
    return (rng.random((v, n)) < p).astype(float)


def test_q_is_statsmodels_q(rng):
    x = simulate(rng)
    assert cochran_q(x) == pytest.approx(cochrans_q(x.T).pvalue, abs=1e-9)
    assert cochran_q(np.ones((3, 5))) == 1.0


def test_no_real_difference_is_rarely_called_one(rng):
    ps = [sensitivity(forms(simulate(rng, between=0.0))).p_value for _ in range(300)]
    assert sum(p <= 0.05 for p in ps) / 300 <= 0.08
    seen = [sensitivity(forms(simulate(rng, between=0.15))).p_value for _ in range(50)]
    assert sum(p <= 0.05 for p in seen) > 45


def test_the_interval_covers_the_mean_over_forms_and_cases(rng):
    held = alone = 0
    for _ in range(300):
        x = simulate(rng, between=0.08)
        found = sensitivity(forms(x)).mean
        held += found.low <= 0.5 <= found.high
        half = 1.96 * np.sqrt(x[0].mean() * (1 - x[0].mean()) / 150)
        alone += abs(x[0].mean() - 0.5) <= half
    assert held / 300 >= 0.92
    assert alone / 300 < 0.80  # one form alone claims too much


def test_between_is_what_noise_does_not_explain(rng):
    found = [sensitivity(forms(simulate(rng, v=20, n=400, between=0.08))).between for _ in range(20)]
    assert np.mean(found) == pytest.approx(0.08, abs=0.012)
    none = [sensitivity(forms(simulate(rng, v=20, n=400, between=0.0))).between for _ in range(20)]
    assert np.mean(none) < 0.01


def test_spread_and_unstable_cases_and_what_was_lost():
    rows = forms([[1, 1, 0, 0], [1, 0, 0, 0]])
    rows["form 0"]["3"] = Errored(error="x")
    found = sensitivity(rows)
    assert found.n == 3 and found.lost == 1
    assert found.spread == pytest.approx(1 / 3) and found.unstable == pytest.approx(1 / 3)


def test_nothing_in_common_is_no_number_and_one_form_is_refused():
    found = sensitivity({"a": forms([[1]])["form 0"], "b": {}})
    assert found.mean.estimate is None and found.spread is None
    with pytest.raises(UsageError):
        sensitivity({"a": {}})
