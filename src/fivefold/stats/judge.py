"""What a judge's measured error does to a rate: correction, and intervals that carry the doubt about the judge.

A judge with sensitivity Se and specificity Sp turns a true rate p into an apparent one Se·p + (1 - Sp)(1 - p). The
correction inverts this. It assumes that the judge errs on the measured answers as it does on the labelled ones; labels
of another language or model make it wrong, so match them. Where Se + Sp <= 1 the judge says nothing of the truth and no
rate is given.

Sources
- Rogan & Gladen, "Estimating prevalence from the results of a screening test", Am. J. Epidemiology 107 (1978).
- Lang & Reiczigel, "Confidence limits for prevalence of disease adjusted for estimated sensitivity and specificity",
  Preventive Veterinary Medicine 113 (2014), eq. 6-7 and 16-17; its variance (eq. 4) is taken with (1 - P)², as the
  delta method gives it.
- Angelopoulos, Bates, Fannjiang, Jordan & Zrnic, "Prediction-powered inference", Science 382 (2023); Angelopoulos,
  Duchi & Zrnic, "PPI++", arXiv 2311.01453 (2023), for the weight that makes it never worse than the labels alone.
- Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20 (1960).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fivefold.errors import UsageError
from fivefold.stats.intervals import Floats, Interval, check_counts, finite, nothing, wilson, z_of


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A judge against labels: counts of (label, judge) pairs."""

    tp: int
    fn: int
    tn: int
    fp: int

    def __post_init__(self) -> None:
        if min(self.tp, self.fn, self.tn, self.fp) < 0:
            raise UsageError("not counts", expected="four numbers >= 0", got=self)

    @classmethod
    def of(cls, labels: ArrayLike, judged: ArrayLike) -> Confusion:
        """Count two rows of 0 and 1."""
        y, j = finite(labels), finite(judged)
        if y.size != j.size or not (np.isin(y, (0, 1)).all() and np.isin(j, (0, 1)).all()):
            raise UsageError("not labels and verdicts", expected="two rows of 0 and 1 of one length")
        return cls(
            tp=int(np.sum((y == 1) & (j == 1))),
            fn=int(np.sum((y == 1) & (j == 0))),
            tn=int(np.sum((y == 0) & (j == 0))),
            fp=int(np.sum((y == 0) & (j == 1))),
        )

    def sensitivity(self, level: float = 0.95) -> Interval:
        """Share of the labelled events that the judge reports (recall)."""
        return wilson(self.tp, self.tp + self.fn, level)

    def specificity(self, level: float = 0.95) -> Interval:
        """Share of the labelled non-events that the judge leaves alone."""
        return wilson(self.tn, self.tn + self.fp, level)

    def precision(self, level: float = 0.95) -> Interval:
        """Share of the judge's reports that are events, at the labelled set's own rate of events."""
        return wilson(self.tp, self.tp + self.fp, level)

    def false_alarms(self, level: float = 0.95) -> Interval:
        """Share of the labelled non-events that the judge reports (false-positive rate)."""
        return wilson(self.fp, self.tn + self.fp, level)

    def accuracy(self, level: float = 0.95) -> Interval:
        """Share of the labelled answers judged rightly."""
        return wilson(self.tp + self.tn, self.tp + self.tn + self.fp + self.fn, level)


def rogan_gladen(
    k: float,
    n: float,
    judge: Confusion,
    level: float = 0.95,
    *,
    method: Literal["lang-reiczigel", "bootstrap"] = "lang-reiczigel",
    seed: int = 0,
) -> Interval:
    """The rate of true events behind k reported events in n answers, with the doubt about the judge in the interval.

    Estimate and interval are None, with a reason, when the judge has no labels of one kind or is no better than chance
    (Se + Sp <= 1). A corrected rate outside [0, 1] is set to the end and `reason` gives the value it had.
    """
    check_counts(k, n, level)
    cases = round(n)
    positives, negatives = judge.tp + judge.fn, judge.tn + judge.fp
    if n == 0:
        return nothing(method, level, "no cases")
    if positives == 0 or negatives == 0:
        return nothing(method, level, "the judge was not measured on both events and non-events", cases)
    se, sp = judge.tp / positives, judge.tn / negatives
    if se + sp <= 1:
        return nothing(method, level, f"the judge is no better than chance: Se {se:.3f} + Sp {sp:.3f} <= 1", cases)
    raw = (k / n + sp - 1) / (se + sp - 1)
    limits = _lang_reiczigel(k, n, judge, level) if method == "lang-reiczigel" else _bootstrap(k, n, judge, level, seed)
    if limits is None:
        return nothing(method, level, "with so few labels the judge may be no better than chance", cases)
    estimate = min(1.0, max(0.0, raw))
    low, high = min(max(0.0, limits[0]), estimate), max(min(1.0, limits[1]), estimate)
    reason = "" if estimate == raw else f"the corrected rate was {raw:.4f}, outside [0, 1]"
    return Interval(estimate=estimate, low=low, high=high, level=level, n=cases, method=method, reason=reason)


def ppi_mean(
    labels: ArrayLike, judged_labelled: ArrayLike, judged: ArrayLike, level: float = 0.95, *, tuned: bool = True
) -> Interval:
    """Prediction-powered mean: the judge's mean over many answers, set right by its error on a labelled sample of them.

    `labels` and `judged_labelled` [m] are truth and judge on a random sample, `judged` [N] the judge on the other
    answers. Unlike Rogan-Gladen it assumes nothing of how the judge errs, but the sample must be random. `tuned` picks
    the weight of the judge from the data (PPI++), so that a useless judge costs nothing.
    """
    y, f, u = finite(labels), finite(judged_labelled), finite(judged)
    if y.size != f.size:
        raise UsageError("not labels and verdicts", expected="as many of each", got=f"{y.size} and {f.size}")
    if y.size < 2 or u.size < 2:
        return nothing("ppi", level, "at least two labelled and two other answers are needed", y.size + u.size)
    weight = _ppi_weight(y, f, u) if tuned else 1.0
    estimate = weight * float(u.mean()) + float((y - weight * f).mean())
    variance = weight**2 * float(u.var(ddof=1)) / u.size + float((y - weight * f).var(ddof=1)) / y.size
    half = z_of(level) * math.sqrt(variance)
    if half == 0:
        return Interval(
            estimate=estimate,
            low=None,
            high=None,
            level=level,
            n=y.size + u.size,
            method="ppi",
            reason="all values are equal: their spread is not known",
        )
    name = "ppi++" if tuned else "ppi"
    return Interval(
        estimate=estimate, low=estimate - half, high=estimate + half, level=level, n=y.size + u.size, method=name
    )


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two judges beyond chance: 1 is full, 0 is chance. None without answers, or when both always say the
    same one thing (chance agreement is then full too)."""
    if len(first) != len(second):
        raise UsageError("not two judges of the same answers", expected="as many verdicts of each")
    if not first:
        return None
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    labels = set(first) | set(second)
    a, b = list(first), list(second)
    chance = sum((a.count(x) / n) * (b.count(x) / n) for x in labels)
    return None if math.isclose(chance, 1.0) else (observed - chance) / (1 - chance)


def _lang_reiczigel(k: float, n: float, judge: Confusion, level: float) -> tuple[float, float] | None:
    z = z_of(level)
    m, apparent = n + z * z, (k + z * z / 2) / (n + z * z)
    n_se, n_sp = judge.tp + judge.fn + 2, judge.tn + judge.fp + 2
    se, sp = (judge.tp + 1) / n_se, (judge.tn + 1) / n_sp
    youden = se + sp - 1
    if youden <= 0:
        return None
    p = (apparent + sp - 1) / youden
    v_se, v_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z * z * (p * v_se - (1 - p) * v_sp)
    spread = math.sqrt(apparent * (1 - apparent) / m + p * p * v_se + (1 - p) ** 2 * v_sp) / youden
    return p + shift - z * spread, p + shift + z * spread


def _bootstrap(
    k: float, n: float, judge: Confusion, level: float, seed: int, draws: int = 20_000
) -> tuple[float, float] | None:
    """Percentiles of the corrected rate when its three shares are drawn from their Jeffreys posteriors. Draws in which
    the judge is no better than chance have no corrected rate; when they are more than the tails can hold, there is no
    interval."""
    rng = np.random.default_rng(seed)
    apparent = rng.beta(k + 0.5, n - k + 0.5, draws)
    se = rng.beta(judge.tp + 0.5, judge.fn + 0.5, draws)
    sp = rng.beta(judge.tn + 0.5, judge.fp + 0.5, draws)
    youden = se + sp - 1
    if np.mean(youden <= 0) > (1 - level) / 2:
        return None
    ok = youden > 0
    corrected: Floats = (apparent[ok] + sp[ok] - 1) / youden[ok]
    low, high = np.quantile(corrected, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ppi_weight(y: Floats, f: Floats, u: Floats) -> float:
    """PPI++ eq. 6 for a mean: Cov(y, f) / ((1 + m / N) Var f), kept inside [0, 1]."""
    spread = float(np.concatenate([f, u]).var(ddof=1))
    if spread == 0:
        return 0.0
    covariance = float(np.cov(y, f, ddof=1)[0, 1])
    return min(1.0, max(0.0, covariance / ((1 + y.size / u.size) * spread)))
