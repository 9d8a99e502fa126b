"""How well a score separates two classes: area under the ROC curve, and recall at a false-positive rate.

Sources
- Hanley & McNeil, "The meaning and use of the area under a ROC curve", Radiology 143 (1982).
- DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988); ranks as in Sun & Xu, IEEE Signal Processing Letters 21 (2014).
- Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2", Statistics in
  Medicine 25 (2006), method 5: a score interval that keeps its width when the classes separate fully, where DeLong's
  has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fivefold.errors import UsageError
from fivefold.stats.intervals import Floats, Interval, finite, nothing, wilson, z_of


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold (score >= threshold is reported), with its recall and false-positive rate on some data."""

    threshold: float
    recall: Interval
    false_positive_rate: Interval


def auroc(
    scores: ArrayLike, labels: ArrayLike, level: float = 0.95, *, method: Literal["newcombe", "delong"] = "newcombe"
) -> Interval:
    """Chance that a positive scores higher than a negative, ties counting half. None without both classes.

    `delong` works on the logit and needs some overlap of the classes: with none it gives no interval.
    """
    positive, negative = split(scores, labels)
    if positive.size == 0 or negative.size == 0:
        return nothing(f"auroc-{method}", level, "both classes are needed", positive.size + negative.size)
    area = _area(positive, negative)
    limits = (
        _newcombe(area, positive.size, negative.size, z_of(level))
        if method == "newcombe"
        else _delong(positive, negative, area, z_of(level))
    )
    low, high = limits or (None, None)
    return Interval(
        estimate=area,
        low=low,
        high=high,
        level=level,
        n=positive.size + negative.size,
        method=f"auroc-{method}",
        reason="" if limits else "the classes do not overlap: DeLong's variance is 0",
    )


def recall_at_fpr(scores: ArrayLike, labels: ArrayLike, fpr: float, level: float = 0.95) -> OperatingPoint | None:
    """The lowest threshold whose false-positive rate is at most `fpr`, and its recall; None without both classes.

    The threshold is chosen on the data it is measured on, so the rates are a little too good: choose on dev and measure
    on test with `at_threshold` where it matters.
    """
    if not 0 <= fpr < 1:
        raise UsageError("not a false-positive rate", expected="0 <= fpr < 1", got=fpr)
    positive, negative = split(scores, labels)
    if positive.size == 0 or negative.size == 0:
        return None
    allowed = math.floor(fpr * negative.size + 1e-9)
    limit = np.sort(negative)[::-1][allowed]
    above = np.concatenate([positive, negative])
    above = above[above > limit]
    threshold = float(above.min()) if above.size else float(np.nextafter(limit, np.inf))
    return at_threshold(scores, labels, threshold, level)


def at_threshold(scores: ArrayLike, labels: ArrayLike, threshold: float, level: float = 0.95) -> OperatingPoint:
    """Recall and false-positive rate of `score >= threshold`."""
    positive, negative = split(scores, labels)
    return OperatingPoint(
        threshold=threshold,
        recall=wilson(int(np.sum(positive >= threshold)), positive.size, level),
        false_positive_rate=wilson(int(np.sum(negative >= threshold)), negative.size, level),
    )


def split(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Scores of the positives and of the negatives."""
    s, y = finite(scores), finite(labels)
    if s.size != y.size or not np.isin(y, (0, 1)).all():
        raise UsageError(
            "not scores and labels", expected="as many labels of 0 or 1 as scores", got=f"{s.size}, {y.size}"
        )
    return s[y == 1], s[y == 0]


def _area(positive: Floats, negative: Floats) -> float:
    below, at_most = _counts(positive, negative)
    return float(np.mean((below + at_most) / 2) / negative.size)


def _counts(x: Floats, against: Floats) -> tuple[Floats, Floats]:
    """How many of `against` lie below each x, and how many at or below."""
    ordered = np.sort(against)
    return np.searchsorted(ordered, x, "left").astype(float), np.searchsorted(ordered, x, "right").astype(float)


def _newcombe(area: float, m: int, n: int, z: float) -> tuple[float, float]:
    """Areas whose own standard error puts the observed one within z of them."""
    half = (m + n) / 2 - 1

    def distance(t: float) -> float:
        variance = t * (1 - t) / (m * n) * (1 + half * ((1 - t) / (2 - t) + t / (1 + t)))
        return (area - t) ** 2 - z * z * variance

    low = 0.0 if area == 0 else _root(distance, 0.0, area)
    high = 1.0 if area == 1 else _root(distance, 1.0, area)
    return low, high


def _root(distance: Callable[[float], float], outside: float, inside: float) -> float:
    for _ in range(200):
        middle = (outside + inside) / 2
        if middle in (outside, inside):
            break
        outside, inside = (middle, inside) if distance(middle) > 0 else (outside, middle)
    return outside


def _delong(positive: Floats, negative: Floats, area: float, z: float) -> tuple[float, float] | None:
    below, at_most = _counts(positive, negative)
    of_positive = (below + at_most) / 2 / negative.size
    below, at_most = _counts(negative, positive)
    of_negative = 1 - (below + at_most) / 2 / positive.size
    if positive.size < 2 or negative.size < 2 or not 0 < area < 1:
        return None
    variance = float(of_positive.var(ddof=1)) / positive.size + float(of_negative.var(ddof=1)) / negative.size
    logit, half = math.log(area / (1 - area)), z * math.sqrt(variance) / (area * (1 - area))
    return 1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit))
