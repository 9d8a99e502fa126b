"""Many tests at once: p-values adjusted so that "significant" keeps its meaning.

Sources
- Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6 (1979): family-wise error.
- Benjamini & Hochberg, JRSS B 57 (1995): false discovery rate, independent or positively dependent tests.
- Benjamini & Yekutieli, Annals of Statistics 29 (2001): false discovery rate under any dependence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fivefold.errors import UsageError
from fivefold.stats.intervals import Floats, finite


def holm(p_values: ArrayLike) -> Floats:
    """Adjusted p-values, in the given order: reject those at or below alpha, and the chance of any false one is at most
    alpha. For gates: one wrong pass is one too many."""
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((p.size - np.arange(p.size)) * p[order])
    return _back(stepped, order)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Adjusted p-values, in the given order: of those at or below q, at most a share q is false on average."""
    return _step_up(_checked(p_values), 1.0)


def benjamini_yekutieli(p_values: ArrayLike) -> Floats:
    """As Benjamini-Hochberg, for tests that depend on each other in any way; larger by 1 + 1/2 + … + 1/m."""
    p = _checked(p_values)
    return _step_up(p, float(np.sum(1 / np.arange(1, p.size + 1))))


def _step_up(p: Floats, factor: float) -> Floats:
    order = np.argsort(p, kind="stable")
    scaled = p[order] * factor * p.size / np.arange(1, p.size + 1)
    return _back(np.minimum.accumulate(scaled[::-1])[::-1], order)


def _back(adjusted: Floats, order: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Floats:
    out = np.empty_like(adjusted)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def _checked(p_values: ArrayLike) -> Floats:
    p = finite(p_values)
    if ((p < 0) | (p > 1)).any():
        raise UsageError("not p-values", expected="numbers between 0 and 1")
    return p
