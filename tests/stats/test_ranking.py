import numpy as np
import pytest

from fivefold.errors import DataError, UsageError
from fivefold.stats import auroc
from fivefold.stats.ranking import clustered_auroc, threshold_at_fpr


def draw(n: int = 80, seed: int = 0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(1, 1, n), rng.normal(0, 1, n)]), [1] * n + [0] * n


def test_without_clusters_it_is_delong() -> None:
    scores, labels = draw()
    ours, theirs = clustered_auroc(scores, labels, range(160)), auroc(scores, labels, method="delong")
    assert ours.estimate == pytest.approx(theirs.estimate)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)


def test_repeating_every_item_in_its_cluster_changes_nothing() -> None:
    scores, labels = draw()
    once = clustered_auroc(scores, labels, range(160))
    thrice = clustered_auroc(np.repeat(scores, 3), np.repeat(labels, 3), np.repeat(range(160), 3).tolist())
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_coverage_with_clusters() -> None:
    """95% intervals over 40 clusters of two positives and two negatives hold the truth in 88 to 99% of 300 draws.

    Scores are N(0, 1) per cluster plus N(0, 1) per item, positives one higher. A positive beats a negative of another
    cluster with probability Phi(1/2) = .6915, and one of its own (a fortieth of the pairs) with Phi(1/sqrt 2) = .7602.
    """
    rng, labels, clusters = np.random.default_rng(1), np.tile([1, 1, 0, 0], 40), np.repeat(range(40), 4).tolist()
    truth = 39 / 40 * 0.6915 + 0.7602 / 40
    draws = [np.repeat(rng.normal(size=40), 4) + rng.normal(size=160) + labels for _ in range(300)]
    found = [clustered_auroc(scores, labels, clusters) for scores in draws]
    assert 0.88 <= np.mean([f.low <= truth <= f.high for f in found]) <= 0.99


def test_full_separation_has_an_interval() -> None:
    found = clustered_auroc([3, 4, 5, 0, 1, 2], [1, 1, 1, 0, 0, 0], list("abcabc"))
    assert found.estimate == 1 and found.high == 1 and 0.3 < found.low < 1


def test_one_class_is_no_estimate() -> None:
    assert clustered_auroc([1, 2], [1, 1], ["a", "b"]).estimate is None
    with pytest.raises(UsageError):
        clustered_auroc([1, 2], [1, 0], ["a"])


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("n", [3, 20, 101])
def test_threshold_is_the_lowest_that_holds_the_rate(fpr: float, n: int) -> None:
    benign = np.random.default_rng(n).normal(size=n)
    threshold = threshold_at_fpr(benign, fpr)
    assert np.mean(benign >= threshold) <= fpr
    below = np.sort(benign)[::-1][int(fpr * n + 1e-9)]
    assert np.mean(benign >= below) > fpr and below < threshold


def test_ties_stay_below_the_threshold() -> None:
    assert np.mean(np.ones(20) >= threshold_at_fpr(np.ones(20), 0.05)) == 0


def test_a_threshold_needs_benign_scores() -> None:
    with pytest.raises(DataError):
        threshold_at_fpr([], 0.05)
