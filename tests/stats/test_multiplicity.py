"""Adjusted p-values: against statsmodels and scipy, and by the errors they promise to keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests

from fivefold.errors import UsageError
from fivefold.stats import benjamini_hochberg, benjamini_yekutieli, holm

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@settings(max_examples=10)
@given(p_values)
def test_against_statsmodels(p):
    for ours, theirs in ((holm, "holm"), (benjamini_hochberg, "fdr_bh"), (benjamini_yekutieli, "fdr_by")):
        assert ours(p) == pytest.approx(multipletests(p, method=theirs)[1], abs=1e-12)


@given(p_values)
def test_against_scipy(p):
    assert benjamini_hochberg(p) == pytest.approx(reference.false_discovery_control(p, method="bh"))
    assert benjamini_yekutieli(p) == pytest.approx(reference.false_discovery_control(p, method="by"))


@given(p_values)
def test_adjusting_only_raises_and_keeps_the_order(p):
    for method in (holm, benjamini_hochberg, benjamini_yekutieli):
        adjusted = method(p)
        assert (adjusted >= np.array(p) - 1e-15).all() and (adjusted <= 1).all()
        order = np.argsort(p, kind="stable")
        assert (np.diff(adjusted[order]) >= -1e-15).all()


def test_holm_keeps_the_family_wise_error_and_bh_the_false_discovery_rate(rng):
    false_any, share = 0, []
    for _ in range(1500):
        z = np.r_[rng.normal(size=15), rng.normal(loc=3, size=5)]
        p = 2 * reference.norm.sf(np.abs(z))
        false_any += (holm(p)[:15] <= 0.05).any()
        found = benjamini_hochberg(p) <= 0.10
        share.append(found[:15].sum() / max(1, found.sum()))
    assert false_any / 1500 < 0.065
    assert np.mean(share) < 0.10


def test_nothing_to_adjust():
    assert holm([]).size == benjamini_hochberg([]).size == benjamini_yekutieli([]).size == 0


@pytest.mark.parametrize("p", [[-0.1], [1.1], [float("nan")]])
def test_what_is_no_p_value(p):
    with pytest.raises(UsageError):
        holm(p)
