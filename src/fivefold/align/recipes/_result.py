"""What every recipe but the thread's own leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fivefold.align.monitor import Alarm
from fivefold.types import Measurement


@dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """A trained adapter (or, where all weights were trained, a model's folder) with what a person should read about it.

    `rows` is the recipe's table (a curve, a comparison), one object a row; `files` are further results by name. `on` is the
    folder of the model that the adapter sits on, where an earlier stage trained all weights; else it sits on the model given.
    """

    path: Path
    data_digest: str
    losses: tuple[float, ...]
    sentences: tuple[str, ...]
    measurements: Sequence[Measurement] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    on: Path | None = None


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


def raised(alarms: Sequence[Alarm]) -> list[str]:
    """The first alarm of every sign, and in how many rounds it was raised: the record has them all."""
    first: dict[str, Alarm] = {}
    for alarm in alarms:
        first.setdefault(alarm.sign, alarm)
    rounds = {sign: len({a.round for a in alarms if a.sign == sign}) for sign in first}
    return [
        f"alarm ({sign}) in round {a.round}"
        + (f", and in {rounds[sign] - 1} later" if rounds[sign] > 1 else "")
        + f": {a.message}"
        for sign, a in first.items()
    ]
