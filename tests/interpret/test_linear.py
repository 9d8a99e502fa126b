import numpy as np
import pytest

from fivefold.errors import DataError
from fivefold.interpret._linear import fit_difference, fit_logistic, logistic_fit


def blobs(n: int = 200, d: int = 12, shift: float = 1.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.5
    return rng.standard_normal((n, d)) * rng.uniform(0.1, 9, d) + shift * y[:, None] + 5, y


@pytest.mark.parametrize(("n", "d"), [(200, 12), (60, 150)])
@pytest.mark.parametrize("strength", [0.5, 20.0])
def test_logistic_agrees_with_scikit_learn(n: int, d: int, strength: float) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = blobs(n, d)
    ours = fit_logistic(x, y, strength=strength, tolerance=1e-10)
    z = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(z, y)
    np.testing.assert_allclose(ours.weight, theirs.coef_[0], atol=1e-4)
    np.testing.assert_allclose(ours.score(x), theirs.decision_function(z), atol=1e-3)


def test_logistic_needs_both_kinds() -> None:
    x, y = blobs()
    with pytest.raises(DataError):
        fit_logistic(x, np.ones_like(y), strength=1.0)


def test_a_column_without_spread_does_no_harm() -> None:
    x, y = blobs()
    x[:, 3] = 7.0
    assert np.isfinite(fit_logistic(x, y, strength=1.0).score(x)).all()


def test_separable_data_converge_under_the_penalty() -> None:
    x, y = blobs(shift=100.0)
    scores = logistic_fit(0.1)(x, y).score(x)
    assert (scores[y] > 0).all() and (scores[~y] < 0).all()


def test_the_penalty_grows_with_the_rows() -> None:
    x, y = blobs()
    twice = logistic_fit(0.1)(np.vstack([x, x]), np.concatenate([y, y]))
    np.testing.assert_allclose(twice.weight, logistic_fit(0.1)(x, y).weight, atol=1e-4)


def test_difference_of_means_is_a_unit_vector_between_the_means() -> None:
    x, y = blobs(shift=3.0)
    found = fit_difference(x, y)
    gap = x[y].mean(0) - x[~y].mean(0)
    assert np.linalg.norm(found.weight) == pytest.approx(1)
    scores = found.score(x)
    assert scores[y].mean() == pytest.approx(-scores[~y].mean())
    assert scores[y].mean() - scores[~y].mean() == pytest.approx(np.linalg.norm(gap))


def test_equal_means_have_no_direction() -> None:
    x, y = blobs()
    with pytest.raises(DataError):
        fit_difference(np.ones_like(x), y)
