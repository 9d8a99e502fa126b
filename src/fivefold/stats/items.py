"""Item analysis: which cases of a benchmark tell models apart, which tell nothing, and which look wrong.

Rows are subjects (models, versions, seeds), columns are cases. A case that every subject passes or fails adds cost and
no information. A case that better subjects fail more often has, most of the time, a wrong key.

Sources
- Lord & Novick, Statistical Theories of Mental Test Scores (1968), ch. 15: difficulty and discrimination.
- Henrysson, "Correction of item-total correlations in item analysis", Psychometrika 28 (1963): the case itself is left
  out of the total that it is correlated with.
- Cronbach, "Coefficient alpha and the internal structure of tests", Psychometrika 16 (1951); for 0 and 1 it is KR-20.
- Fisher's z for the interval of a correlation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fivefold.errors import UsageError
from fivefold.stats.intervals import Floats, z_of

Flag: TypeAlias = Literal["ceiling", "floor", "suspect", ""]
MIN_SUBJECTS = 4
"""Below this number of subjects a correlation has no interval."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One case over all subjects. `difficulty` is its mean score (high is easy). `discrimination` is its correlation
    with the rest of the test, None when it has no spread or there are fewer than four subjects.

    `flag`: `ceiling` and `floor` for cases that all pass or fail; `suspect` when the whole interval of the
    discrimination is below zero.
    """

    id: str
    difficulty: float
    discrimination: float | None
    low: float | None
    high: float | None
    flag: Flag


@dataclass(frozen=True, kw_only=True)
class ItemAnalysis:
    """All cases, the test's reliability (Cronbach's alpha; None without spread or with one subject), and how many cases
    of the same kind would give a reliability of 0.9 (Spearman-Brown)."""

    items: tuple[Item, ...]
    subjects: int
    alpha: float | None
    cases_for_90: int | None

    def flagged(self, flag: Flag) -> tuple[str, ...]:
        """Ids of the cases with this flag."""
        return tuple(i.id for i in self.items if i.flag == flag)


def item_analysis(scores: ArrayLike, ids: Sequence[str], *, level: float = 0.95) -> ItemAnalysis:
    """Analyse scores [subjects, cases] between 0 and 1, all present (`complete_scores` picks such cases).

    The level of a `suspect` flag is divided by the number of cases that have a spread (Bonferroni), so that a benchmark
    with good keys shows, with chance `level`, none at all.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != len(ids) or x.shape[0] == 0:
        raise UsageError("not a table of scores", expected=f"subjects x {len(ids)} cases", got=x.shape)
    if not np.isfinite(x).all() or ((x < 0) | (x > 1)).any():
        raise UsageError("scores lie between 0 and 1, and none is missing", next_step="use complete_scores")
    n, m = x.shape
    spread = x.std(axis=0) > 0
    r = _rest_correlation(x) if n >= MIN_SUBJECTS else np.full(m, np.nan)
    corrected = 1 - (1 - level) / max(1, int(spread.sum()))
    items = tuple(_item(ids[j], float(x[:, j].mean()), float(r[j]), n, corrected) for j in range(m))
    alpha = _alpha(x)
    return ItemAnalysis(items=items, subjects=n, alpha=alpha, cases_for_90=_lengthened(alpha, m))


def complete_scores(subjects: Mapping[str, Mapping[str, float]]) -> tuple[Floats, list[str], list[str]]:
    """Scores [subjects, cases] of the cases that every subject was scored on, their ids, and the ids left out."""
    everyone = list(subjects.values())
    known = list(dict.fromkeys(id for row in everyone for id in row))
    ids = [id for id in known if all(id in row for row in everyone)]
    table = np.array([[row[id] for id in ids] for row in everyone], dtype=np.float64).reshape(len(everyone), len(ids))
    return table, ids, [id for id in known if id not in set(ids)]


def _item(id: str, difficulty: float, r: float, n: int, level: float) -> Item:
    ends = ("ceiling" if difficulty == 1 else "floor") if difficulty in (0, 1) else ""
    if not math.isfinite(r):
        return Item(id=id, difficulty=difficulty, discrimination=None, low=None, high=None, flag=ends)  # type: ignore[arg-type]
    z, half = math.atanh(max(-0.999999, min(0.999999, r))), z_of(level) / math.sqrt(n - 3)
    low, high = math.tanh(z - half), math.tanh(z + half)
    flag: Flag = "suspect" if high < 0 else ""
    return Item(id=id, difficulty=difficulty, discrimination=r, low=low, high=high, flag=flag)


def _rest_correlation(x: Floats) -> Floats:
    """Correlation of each column with the sum of the others; NaN where one of the two has no spread."""
    rest = x.sum(axis=1, keepdims=True) - x
    a, b = x - x.mean(axis=0), rest - rest.mean(axis=0)
    product = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    found = np.divide((a * b).sum(axis=0), product, out=np.full(x.shape[1], np.nan), where=product > 1e-12)
    return np.asarray(found, dtype=np.float64)


def _alpha(x: Floats) -> float | None:
    n, m = x.shape
    if n < 2 or m < 2:
        return None
    total = float(x.sum(axis=1).var(ddof=1))
    return None if total < 1e-12 else m / (m - 1) * (1 - float(x.var(axis=0, ddof=1).sum()) / total)


def _lengthened(alpha: float | None, m: int, wanted: float = 0.9) -> int | None:
    """Cases for a reliability of `wanted`, by Spearman and Brown."""
    if alpha is None or alpha <= 0:
        return None
    return m if alpha >= 1 else math.ceil(m * wanted * (1 - alpha) / (alpha * (1 - wanted)) - 1e-9)
