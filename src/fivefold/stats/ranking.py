"""Ranking with dependent cases, and thresholds for a false-positive rate.

Requests that share a behaviour (a request, its look-alike, its translations) are not independent, so an AUROC over them
needs clusters. Source: Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53 (1997): DeLong's
structural components, summed within clusters. Deviation: the interval is formed on the logit scale, so that it stays
inside (0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from fivefold.errors import DataError
from fivefold.stats.clustered import cluster_codes
from fivefold.stats.curves import auroc, split
from fivefold.stats.intervals import Floats, Interval, finite, nothing, z_of

METHOD = "auroc-clustered-delong"


def clustered_auroc(
    scores: ArrayLike, labels: ArrayLike, clusters: Sequence[Hashable], level: float = 0.95
) -> Interval:
    """Chance that a positive scores higher than a negative, ties counting half. None without both classes.

    Where the classes do not overlap at all there is no variance to estimate; the interval is then Newcombe's, over the
    number of clusters on each side.
    """
    positive, negative = split(scores, labels)
    if positive.size == 0 or negative.size == 0:
        return nothing(METHOD, level, "both classes are needed", positive.size + negative.size)
    codes, is_positive = cluster_codes(clusters, positive.size + negative.size), finite(labels) == 1
    of_positive, of_negative = _placements(positive, negative)
    area = float(of_positive.mean())
    p = np.bincount(codes[is_positive], weights=of_positive - area, minlength=codes.max() + 1) / positive.size
    q = np.bincount(codes[~is_positive], weights=of_negative - area, minlength=codes.max() + 1) / negative.size
    groups = [len(set(codes[is_positive])), len(set(codes[~is_positive])), int(codes.max()) + 1]
    terms = (p * p, q * q, 2 * p * q)
    variance = sum(float(t.sum()) * g / max(1, g - 1) for t, g in zip(terms, groups, strict=True))
    low, high = _limits(area, variance, groups, level)
    return Interval(estimate=area, low=low, high=high, level=level, n=positive.size + negative.size, method=METHOD)


def threshold_at_fpr(benign: ArrayLike, fpr: float) -> float:
    """The lowest float32 threshold that at most `fpr` of the benign scores reach (score >= threshold is reported)."""
    scores = np.sort(finite(benign))[::-1]
    if scores.size == 0:
        raise DataError("a threshold needs negatives", expected="at least one benign score", got="none")
    allowed = min(math.floor(fpr * scores.size + 1e-9), scores.size - 1)
    limit = np.float32(scores[allowed])
    return float(np.nextafter(limit, np.float32(np.inf)) if limit <= scores[allowed] else limit)


def _placements(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    m, n = positive.size, negative.size
    ranks = rankdata(np.concatenate([positive, negative]))
    return (ranks[:m] - rankdata(positive)) / n, 1 - (ranks[m:] - rankdata(negative)) / m


def _limits(area: float, variance: float, groups: Sequence[int], level: float) -> tuple[float | None, float | None]:
    if variance <= 0 or not 0 < area < 1:
        stand_in = auroc([1.0] * groups[0] + [0.0] * groups[1], [1] * groups[0] + [0] * groups[1], level)
        width = (stand_in.high or 1.0) - (stand_in.low or 0.0)
        return max(0.0, area - width), min(1.0, area + width)
    centre, half = math.log(area / (1 - area)), z_of(level) * math.sqrt(variance) / (area * (1 - area))
    return 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre))
