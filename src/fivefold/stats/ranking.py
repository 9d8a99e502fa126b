"""How well a score ranks positives above negatives: AUROC and recall at a false-positive rate, with intervals.

Items that share a behaviour (a request, its look-alike, its translations) are not independent, so both intervals take
clusters. AUROC: DeLong's structural components summed within clusters (Obuchowski 1997, Biometrics 53:567), the interval
formed on the logit scale so that it stays inside (0, 1); with every item its own cluster this is DeLong, DeLong and
Clarke-Pearson 1988. Recall at a false-positive rate: percentile bootstrap over clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from fivefold.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """An estimate with its interval over `n_positive` and `n_negative` scored items."""

    estimate: float
    low: float
    high: float
    level: float
    n_positive: int
    n_negative: int


def auroc(
    positive: Sequence[float] | Array,
    negative: Sequence[float] | Array,
    *,
    positive_clusters: Sequence[str] | None = None,
    negative_clusters: Sequence[str] | None = None,
    level: float = 0.95,
) -> Ranked:
    """Probability that a positive scores above a negative, ties counting one half.

    Raises DataError when either side is empty or a score is not finite.
    """
    pos, neg = _checked(positive, negative)
    m, n = len(pos), len(neg)
    placed_pos, placed_neg = placements(pos, neg)
    area = float(placed_pos.mean())
    variance = _clustered_variance(
        placed_pos - area, placed_neg - area, *_clusters(m, n, positive_clusters, negative_clusters)
    )
    low, high = _logit_interval(area, variance, min(m, n), level)
    return Ranked(estimate=area, low=low, high=high, level=level, n_positive=m, n_negative=n)


def placements(pos: Array, neg: Array) -> tuple[Array, Array]:
    """DeLong's structural components: for each positive the share of negatives below it, for each negative the share of
    positives above it."""
    m, n = len(pos), len(neg)
    ranks = rankdata(np.concatenate([pos, neg]))
    return (ranks[:m] - rankdata(pos)) / n, 1 - (ranks[m:] - rankdata(neg)) / m


def recall_at_fpr(
    positive: Sequence[float] | Array,
    negative: Sequence[float] | Array,
    *,
    fpr: float,
    positive_clusters: Sequence[str] | None = None,
    negative_clusters: Sequence[str] | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Ranked:
    """Share of positives above the lowest threshold that at most `fpr` of the negatives exceed.

    The threshold is chosen on these same negatives; `draws` bootstrap samples of clusters choose it anew each time.
    """
    pos, neg = _checked(positive, negative)
    pos_cluster, neg_cluster = _clusters(len(pos), len(neg), positive_clusters, negative_clusters)
    names = np.unique(np.concatenate([pos_cluster, neg_cluster]))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        p = np.repeat(pos, weight[np.searchsorted(names, pos_cluster)])
        q = np.repeat(neg, weight[np.searchsorted(names, neg_cluster)])
        if len(p) and len(q):
            values.append(_recall(p, q, fpr))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Ranked(
        estimate=_recall(pos, neg, fpr),
        low=float(low),
        high=float(high),
        level=level,
        n_positive=len(pos),
        n_negative=len(neg),
    )


def threshold_at_fpr(negative: Sequence[float] | Array, fpr: float) -> float:
    """The lowest score that at most `fpr` of the negatives exceed; an exchange is flagged when its score is above it."""
    scores = np.sort(np.asarray(negative, dtype=np.float64))
    if scores.size == 0:
        raise DataError("a threshold needs negatives", expected="at least one benign score", got="none")
    allowed = int(np.floor(fpr * scores.size + 1e-9))
    return float(scores[scores.size - 1 - allowed]) if allowed < scores.size else float(np.nextafter(scores[0], -np.inf))


def _recall(pos: Array, neg: Array, fpr: float) -> float:
    return float((pos > threshold_at_fpr(neg, fpr)).mean())


def _checked(positive: Sequence[float] | Array, negative: Sequence[float] | Array) -> tuple[Array, Array]:
    pos, neg = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    if pos.size == 0 or neg.size == 0:
        raise DataError(
            "a ranking needs both kinds of item", expected="positives and negatives", got=f"{pos.size} and {neg.size}"
        )
    if not (np.isfinite(pos).all() and np.isfinite(neg).all()):
        raise DataError("a score is not a finite number", next_step="leave unscored and errored items out")
    return pos, neg


def _clusters(
    m: int, n: int, positive: Sequence[str] | None, negative: Sequence[str] | None
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    pos = np.asarray(positive if positive is not None else [f"+{i}" for i in range(m)], dtype=np.str_)
    neg = np.asarray(negative if negative is not None else [f"-{i}" for i in range(n)], dtype=np.str_)
    if len(pos) != m or len(neg) != n:
        raise DataError("one cluster name per score is needed", expected=f"{m} and {n}", got=f"{len(pos)} and {len(neg)}")
    return pos, neg


def _clustered_variance(
    pos: Array, neg: Array, pos_cluster: NDArray[np.str_], neg_cluster: NDArray[np.str_]
) -> float:
    """Obuchowski 1997, equation 3: variance of the positives' and negatives' parts and twice their covariance, summed
    within clusters."""
    names = np.unique(np.concatenate([pos_cluster, neg_cluster]))
    p, q = np.zeros(len(names)), np.zeros(len(names))
    np.add.at(p, np.searchsorted(names, pos_cluster), pos / len(pos))
    np.add.at(q, np.searchsorted(names, neg_cluster), neg / len(neg))
    parts = ((p * p, len(np.unique(pos_cluster))), (q * q, len(np.unique(neg_cluster))), (2 * p * q, len(names)))
    return float(sum(terms.sum() * k / max(1, k - 1) for terms, k in parts))


def _logit_interval(area: float, variance: float, n: int, level: float) -> tuple[float, float]:
    """Interval on the logit scale. With no spread at all (area 0 or 1) the rule of three bounds what was not seen."""
    z = float(norm.ppf((1 + level) / 2))
    bound = 1 - (1 - level) ** (1 / n)
    if variance <= 0 or not 0 < area < 1:
        return max(0.0, area - bound), min(1.0, area + bound)
    center, half = np.log(area / (1 - area)), z * np.sqrt(variance) / (area * (1 - area))
    return float(1 / (1 + np.exp(half - center))), float(1 / (1 + np.exp(-half - center)))
