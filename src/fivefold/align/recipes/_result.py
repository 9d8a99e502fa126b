"""What every recipe but the thread's own leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fivefold.types import Measurement


@dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """A trained adapter with what a person should read about it.

    `rows` is the recipe's table (a curve, a comparison), one object a row; `files` are further results by name.
    """

    path: Path
    data_digest: str
    losses: tuple[float, ...]
    sentences: tuple[str, ...]
    measurements: Sequence[Measurement] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


def row_of(m: Measurement) -> dict[str, Any]:
    """A rate of one version under one condition, as a row of a recipe's table."""
    return {
        "metric": m.metric,
        "condition": m.slice["condition"],
        "version": m.subject_name,
        "estimate": m.estimate,
        "low": m.low,
        "high": m.high,
        "n": m.n_scored,
        "unscored": m.n_unscored,
    }


def shown(measurement: Measurement) -> str:
    """`0.53 [0.41, 0.65], n = 64`, or that nothing was measured."""
    if measurement.estimate is None or measurement.low is None or measurement.high is None:
        return "not measured"
    return f"{measurement.estimate:.2f} [{measurement.low:.2f}, {measurement.high:.2f}], n = {measurement.n_scored}"
