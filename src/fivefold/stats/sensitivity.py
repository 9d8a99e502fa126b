"""One benchmark under several forms of its prompt: how far the number moves when nothing that matters was changed.

Cases and forms are both samples: of the questions, and of the ways to put them. A number from one form hides the second
source of error; the interval here holds both.

Sources
- Sclar et al., "Quantifying Language Models' Sensitivity to Spurious Features in Prompt Design", arXiv 2310.11324
  (2023): the spread between forms as part of a result.
- Searle, Casella & McCulloch, Variance Components (1992), ch. 4: two-way random effects, one observation a cell.
- Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2 (1946).
- Cochran, "The comparison of percentages in matched samples", Biometrika 37 (1950): the Q test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, stdtrit

from fivefold.errors import UsageError
from fivefold.stats.intervals import Floats, Interval, check_level, nothing
from fivefold.types import Outcome, Scored


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Rates of the forms on the cases that all of them were scored on.

    `mean` is over forms and cases, its interval holds both sources of error. `spread` is the best rate minus the worst.
    `between` is the standard deviation between forms beyond what the cases' own noise explains (0 when nothing is
    left). `unstable` is the share of cases that not all forms score alike. `p_value`: Cochran's Q, "all forms are
    equal"; None unless scores are 0 and 1. `lost` counts cases that some form left without a score.
    """

    rates: Mapping[str, float]
    mean: Interval
    spread: float | None
    between: float | None
    unstable: float | None
    p_value: float | None
    n: int
    lost: int


def sensitivity(forms: Mapping[str, Mapping[str, Outcome]], level: float = 0.95) -> Sensitivity:
    """Compare at least two forms (name -> case -> outcome). UsageError for fewer."""
    check_level(level)
    if len(forms) < 2:
        raise UsageError("sensitivity compares forms", expected="at least two", got=len(forms))
    scored = {f: {i: o.value for i, o in rows.items() if isinstance(o, Scored)} for f, rows in forms.items()}
    every = list(dict.fromkeys(i for rows in forms.values() for i in rows))
    ids = [i for i in every if all(i in rows for rows in scored.values())]
    if len(ids) < 2:
        reason = f"{len(ids)} cases were scored under every form"
        empty = nothing("two-way", level, reason, len(ids))
        return Sensitivity(
            rates={},
            mean=empty,
            spread=None,
            between=None,
            unstable=None,
            p_value=None,
            n=len(ids),
            lost=len(every) - len(ids),
        )
    x = np.array([[rows[i] for i in ids] for rows in scored.values()])
    rates = x.mean(axis=1)
    forms_ms, items_ms, rest_ms = mean_squares(x)
    return Sensitivity(
        rates={f: float(r) for f, r in zip(forms, rates, strict=True)},
        mean=_mean(x, forms_ms, items_ms, rest_ms, level),
        spread=float(rates.max() - rates.min()),
        between=math.sqrt(max(0.0, (forms_ms - rest_ms) / len(ids))),
        unstable=float((x != x[0]).any(axis=0).mean()),
        p_value=cochran_q(x) if np.isin(x, (0, 1)).all() else None,
        n=len(ids),
        lost=len(every) - len(ids),
    )


def mean_squares(x: Floats) -> tuple[float, float, float]:
    """Mean squares of forms, of cases and of the rest, for scores [forms, cases]."""
    v, n = x.shape
    grand, rows, columns = x.mean(), x.mean(axis=1), x.mean(axis=0)
    rest = x - rows[:, None] - columns[None, :] + grand
    return (
        float(n * ((rows - grand) ** 2).sum() / (v - 1)),
        float(v * ((columns - grand) ** 2).sum() / (n - 1)),
        float((rest**2).sum() / ((v - 1) * (n - 1))),
    )


def cochran_q(x: Floats) -> float:
    """p-value of Cochran's Q for 0 and 1 [forms, cases]; 1 when every case is scored alike by all forms."""
    v = x.shape[0]
    rows, columns = x.sum(axis=1), x.sum(axis=0)
    below = float((columns * (v - columns)).sum())
    if below == 0:
        return 1.0
    q = (v - 1) * (v * float((rows**2).sum()) - float(rows.sum()) ** 2) / below
    return float(chdtrc(v - 1, q))


def _mean(x: Floats, forms: float, items: float, rest: float, level: float) -> Interval:
    """Two-way random effects: variance (MS forms + MS cases - MS rest) / (v n), with Satterthwaite's degrees of
    freedom. Where the difference falls below either part, the larger part alone is used: never less than it."""
    v, n = x.shape
    total = max(forms + items - rest, forms, items)
    if total == 0:
        return Interval(
            estimate=float(x.mean()),
            low=None,
            high=None,
            level=level,
            n=n,
            method="two-way",
            reason="all scores are equal: their spread is not known",
        )
    below = forms**2 / (v - 1) + items**2 / (n - 1) + rest**2 / ((v - 1) * (n - 1))
    df = max(1.0, total**2 / below)
    half = float(stdtrit(df, (1 + level) / 2)) * math.sqrt(total / (v * n))
    mean = float(x.mean())
    binary = bool(((x >= 0) & (x <= 1)).all())
    low, high = mean - half, mean + half
    return Interval(
        estimate=mean,
        low=max(0.0, low) if binary else low,
        high=min(1.0, high) if binary else high,
        level=level,
        n=n,
        method=f"two-way random effects over {v} forms",
    )
