"""Time horizon: against curves that are known, statsmodels, and by simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm

from fivefold.errors import UsageError
from fivefold.stats import time_horizon


def simulate(rng, n, half=60.0, slope=-0.7, families=None):
    """Tasks of 1 minute to about 68 hours; success by a curve whose 50% horizon is `half` minutes."""
    minutes = 2 ** rng.uniform(0, 12, n)
    p = 1 / (1 + np.exp(-slope * (np.log2(minutes) - math.log2(half))))
    return (rng.random(n) < p).astype(float), minutes


def test_a_large_sample_gives_the_curve_back(rng):
    y, t = simulate(rng, 20_000)
    found = time_horizon(y, t, resamples=20)
    assert found.slope == pytest.approx(-0.7, abs=0.03)
    assert found.at[0.5].estimate == pytest.approx(60, rel=0.05)
    # p = 0.8 lies log(4) / 0.7 doublings before p = 0.5.
    assert found.at[0.8].estimate == pytest.approx(60 / 2 ** (math.log(4) / 0.7), rel=0.08)


def test_without_a_penalty_it_is_maximum_likelihood(rng):
    y, t = simulate(rng, 300)
    x = np.log2(t)
    reference = sm.Logit(y, sm.add_constant(x)).fit(disp=0)
    found = time_horizon(y, t, ridge=0.0, resamples=10)
    assert (found.intercept, found.slope) == pytest.approx(tuple(reference.params), abs=1e-5)


def test_a_ridge_is_the_penalised_maximum(rng):
    from scipy.optimize import minimize

    y, t = simulate(rng, 80)
    x = np.log(t)

    def loss(v):
        eta = v[0] + v[1] * x
        return float(np.logaddexp(0, eta).sum() - (y * eta).sum() + 10.0 / 2 * v[1] ** 2)

    a, b = minimize(loss, [0.0, 0.0], tol=1e-12).x
    found = time_horizon(y, t, ridge=10.0, resamples=10)
    assert (found.intercept, found.slope) == pytest.approx((a, b * math.log(2)), abs=1e-4)
    free = time_horizon(y, t, ridge=0.0, resamples=10)
    assert abs(found.slope) < abs(free.slope)


def test_separated_data_still_have_a_finite_horizon_between_them():
    t = [1, 2, 4, 8, 16, 32, 64, 128]
    found = time_horizon([1, 1, 1, 1, 0, 0, 0, 0], t, resamples=200)
    assert found.at[0.5].estimate == pytest.approx(math.sqrt(8 * 16), rel=0.01)
    assert found.slope < 0


@pytest.mark.parametrize("level", [0.95])
def test_the_bootstrap_covers_the_true_horizon(rng, level):
    held = 0
    for seed in range(200):
        y, t = simulate(rng, 120)
        at = time_horizon(y, t, resamples=300, seed=seed, level=level, chances=(0.5,)).at[0.5]
        held += at.low is not None and at.high is not None and at.low <= 60 <= at.high
    assert 0.90 <= held / 200 <= 0.99


def test_families_widen_the_interval(rng):
    y, t = simulate(rng, 40)
    y4, t4 = np.repeat(y, 4), np.repeat(t, 4)
    family = np.repeat(np.arange(40), 4)
    alone, together = time_horizon(y4, t4), time_horizon(y4, t4, clusters=family.tolist())
    width = lambda f: math.log(f.at[0.5].high / f.at[0.5].low)  # noqa: E731
    assert width(together) > 1.6 * width(alone)
    assert together.clusters == 40


@pytest.mark.parametrize(
    "y, t, word",
    [
        ([1, 1, 1, 1], [1, 2, 4, 8], "beyond the longest, 8"),
        ([0, 0, 0, 0], [1, 2, 4, 8], "below the shortest, 1"),
        ([0, 1, 0, 1], [5, 5, 5, 5], "same human time"),
        ([0, 1], [1, 2], "at least three"),
        ([0, 0, 1, 1], [1, 2, 4, 8], "does not fall"),
        ([], [], "at least three"),
    ],
)
def test_where_there_is_no_horizon_it_says_why(y, t, word):
    at = time_horizon(y, t, resamples=20).at[0.5]
    assert at.estimate is None and at.low is None and at.high is None
    assert word in at.reason


def test_an_extrapolated_or_unbounded_horizon_says_so(rng):
    t = np.array([1.0, 2, 4, 8] * 5)
    y = np.array([1.0, 1, 1, 1] * 4 + [1, 1, 0, 0])
    at = time_horizon(y, t, resamples=300).at[0.5]
    assert at.estimate > 8 and "extrapolated" in at.reason
    assert at.high is None and "do not bound" in at.reason


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="positive"):
        time_horizon([1, 0, 1], [1, 0, 2])
    with pytest.raises(UsageError, match="between 0 and 1"):
        time_horizon([1, 2, 0], [1, 2, 3])
    with pytest.raises(UsageError, match="human minutes"):
        time_horizon([1, 0], [1, 2, 3])
    with pytest.raises(UsageError, match="chance"):
        time_horizon([1, 0, 1], [1, 2, 3], chances=(1.0,))
