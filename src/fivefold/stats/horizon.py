"""Time horizon: how long a task, by the time a person needs for it, a model completes with a given chance.

The chance of success is a logistic function of log2 of the human minutes, and the horizon at 50% (80%) is the task
length at which the fitted curve passes 0.5 (0.8).

Sources
- Kwa et al., "Measuring AI Ability to Complete Long Tasks", arXiv 2503.14499 (2025), sec. 4: the curve, the horizon,
  and the bootstrap over task families.
- Firth, "Bias reduction of maximum likelihood estimates", Biometrika 80 (1993); Heinze & Schemper, "A solution to the
  problem of separation in logistic regression", Statistics in Medicine 21 (2002): why the default fit is finite where
  every short task succeeds and every long one fails.

Deviations: the paper penalises the slope by a ridge, which draws it towards 0 and the 80% horizon downwards; here that
is an option (`ridge`), and the default is Firth's correction. Its weights, which make each task family count by the
square root of its size, are an argument.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from fivefold.errors import UsageError
from fivefold.stats.clustered import cluster_codes
from fivefold.stats.intervals import Floats, Interval, check_level, finite, nothing

STEPS, TOLERANCE, STRIDE = 200, 1e-9, 1.0
"""Newton's iterations at most, the change that ends them, and the longest step in standard units."""

BLOCK = 2_000_000
"""Weights (resamples x cases) that are fitted at a time."""


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """A fitted curve: chance of success = logistic(intercept + slope · log2 minutes).

    `at` maps a chance to its horizon in minutes, with a bootstrap interval; an estimate or end that the data do not
    bound is None and the interval's `reason` says why. `shortest` and `longest` are the human minutes of the cases: a
    horizon outside of them is extrapolated, and its reason says that too. `slope` is None when the fit has none.
    """

    intercept: float | None
    slope: float | None
    at: Mapping[float, Interval]
    n: int
    clusters: int
    shortest: float
    longest: float
    method: str


def time_horizon(
    scores: ArrayLike,
    minutes: ArrayLike,
    *,
    chances: Sequence[float] = (0.5, 0.8),
    clusters: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    ridge: float | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Horizon:
    """Fit success (between 0 and 1, fractions allowed) against human minutes.

    Whole `clusters` (task families; each case its own when None) are drawn with replacement. `ridge` replaces Firth's
    correction by a penalty `ridge / 2 · slope²` on the slope per factor e of time, with weights as given. UsageError
    for minutes that are not positive, scores outside 0 to 1, or unequal lengths.
    """
    y, t, w = _checked(scores, minutes, weights)
    check_level(level)
    if bad := [q for q in chances if not 0 < q < 1]:
        raise UsageError("not a chance of success", expected="between 0 and 1, say 0.5", got=bad[0])
    codes = cluster_codes(range(y.size) if clusters is None else clusters, y.size)
    groups = int(codes.max()) + 1 if y.size else 0
    method = "logistic, firth" if ridge is None else f"logistic, ridge {ridge:g}"
    if reason := _unfit(y, t):
        at = {q: nothing(method, level, reason, y.size) for q in chances}
        return Horizon(
            intercept=None,
            slope=None,
            at=at,
            n=y.size,
            clusters=groups,
            shortest=float(t.min()) if t.size else 0.0,
            longest=float(t.max()) if t.size else 0.0,
            method=method,
        )
    x = np.log2(t)
    a, b = _fit(x, y, w[None, :], ridge)
    draws = _draws(codes, groups, w, resamples, seed)
    many = [_fit(x, y, block, ridge) for block in draws]
    slopes = np.concatenate([m[1] for m in many])
    intercepts = np.concatenate([m[0] for m in many])
    at = {q: _interval(q, x, a[0], b[0], intercepts, slopes, groups, level, method) for q in chances}
    return Horizon(
        intercept=float(a[0]),
        slope=float(b[0]),
        at=at,
        n=y.size,
        clusters=groups,
        shortest=float(t.min()),
        longest=float(t.max()),
        method=method,
    )


def _checked(scores: ArrayLike, minutes: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    y, t = finite(scores), finite(minutes)
    w = np.ones(y.size) if weights is None else finite(weights)
    if not y.size == t.size == w.size:
        raise UsageError("each score needs its human minutes", expected=f"{y.size}", got=f"{t.size}, {w.size} weights")
    if (t <= 0).any() or (w < 0).any():
        raise UsageError("human time and weights are positive", got=f"{min(t.min(), w.min()):g}")
    if ((y < 0) | (y > 1)).any():
        raise UsageError("not a success", expected="scores between 0 and 1", got=f"{y.min():g} to {y.max():g}")
    return y, t, w


def _unfit(y: Floats, t: Floats) -> str:
    """Why there is no curve, or nothing."""
    if y.size < 3:
        return f"{y.size} cases: at least three are needed"
    if t.min() == t.max():
        return "every case has the same human time"
    if (y == 1).all():
        return f"every case succeeded: the horizon is beyond the longest, {t.max():g} minutes"
    if (y == 0).all():
        return f"no case succeeded: the horizon is below the shortest, {t.min():g} minutes"
    return ""


def _draws(codes: np.ndarray[tuple[int], np.dtype[np.intp]], groups: int, w: Floats, n: int, seed: int) -> list[Floats]:
    """Weights [resamples, cases] of bootstrap samples of whole clusters, in blocks."""
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // w.size)
    sizes = [min(block, n - done) for done in range(0, n, block)]
    counts = (rng.multinomial(groups, np.full(groups, 1 / groups), size) for size in sizes)
    return [np.asarray(c[:, codes] * w, dtype=np.float64) for c in counts]


def _fit(x: Floats, y: Floats, weights: Floats, ridge: float | None) -> tuple[Floats, Floats]:
    """Intercepts and slopes [R] for weights [R, n], by Newton's method on the penalised likelihood, in standard units
    of x. A sample without spread of x has slope 0."""
    centre, scale = x.mean(), x.std()
    u = (x - centre) / scale
    penalty = 0.0 if ridge is None else ridge / (scale * math.log(2)) ** 2
    a, b = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(STEPS):
        p = expit(a[:, None] + b[:, None] * u)
        v = weights * p * (1 - p)
        s0, s1, s2 = v.sum(1), v @ u, v @ (u * u)
        residual = weights * (y - p)
        if ridge is None:
            determinant = np.maximum(s0 * s2 - s1 * s1, 1e-12)
            leverage = v * (s2[:, None] - 2 * s1[:, None] * u + s0[:, None] * u * u) / determinant[:, None]
            residual = residual + leverage * (0.5 - p)
        g0, g1 = residual.sum(1), residual @ u - penalty * b
        h2 = s2 + penalty
        determinant = s0 * h2 - s1 * s1
        safe = determinant > 1e-10 * np.maximum(s0 * h2, 1e-30)
        d = np.where(safe, determinant, 1.0)
        da = np.where(safe, (h2 * g0 - s1 * g1) / d, 0.0)
        db = np.where(safe, (s0 * g1 - s1 * g0) / d, 0.0)
        shrink = np.minimum(1.0, STRIDE / np.maximum(np.maximum(abs(da), abs(db)), 1e-30))
        a, b = a + shrink * da, b + shrink * db
        if max(abs(da).max(), abs(db).max()) < TOLERANCE:
            break
    slope = b / scale
    return a - slope * centre, slope


def _interval(
    q: float,
    x: Floats,
    a: float,
    b: float,
    intercepts: Floats,
    slopes: Floats,
    groups: int,
    level: float,
    method: str,
) -> Interval:
    logit = math.log(q / (1 - q))
    if b >= 0:
        return nothing(method, level, "success does not fall with human time: there is no horizon", x.size)
    estimate = _minutes((logit - a) / b)
    if groups < 2:
        reason = "one task family: its spread is not known"
        return Interval(estimate=estimate, low=None, high=None, level=level, n=x.size, method=method, reason=reason)
    # A resample whose curve does not fall has its horizon beyond all lengths, or below them, by where its curve lies.
    falling = slopes < 0
    middle = intercepts + slopes * x.mean()
    logs = np.where(
        falling, (logit - intercepts) / np.where(falling, slopes, -1.0), np.where(middle >= logit, np.inf, -np.inf)
    )
    low, high = np.quantile(logs, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    notes = []
    if not math.isfinite(low) or not math.isfinite(high):
        notes.append(f"{1 - falling.mean():.0%} of the resamples have no falling curve: the data do not bound it")
    if not x.min() <= (logit - a) / b <= x.max():
        notes.append(f"extrapolated beyond the cases ({2 ** x.min():.3g} to {2 ** x.max():.3g} minutes)")
    return Interval(
        estimate=estimate,
        low=_minutes(low),
        high=_minutes(high),
        level=level,
        n=x.size,
        method=f"{method}, bootstrap over {groups}",
        reason="; ".join(notes),
    )


def _minutes(log2: float) -> float | None:
    """2 to this power; None where the data do not bound it (beyond what a number can hold)."""
    return float(2.0**log2) if math.isfinite(log2) and abs(log2) < 1000 else None
