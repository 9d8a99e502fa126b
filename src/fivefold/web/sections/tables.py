"""Training, guard and the judge's own error: rows of whatever was measured, rates with their intervals drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fivefold.web import charts, text
from fivefold.web.names import language_title
from fivefold.web.sections.frame import Frame, Number, unmeasured

RATES = frozenset(
    {"recall", "fpr", "precision", "accuracy", "specificity", "false_positive_rate", "agreement", "f1", "target_fpr"}
)
TITLES = {
    "fpr": "False positive rate",
    "f1": "F1",
    "n": "n",
    "n_harmful": "Harmful prompts",
    "n_benign": "Benign prompts",
    "target_fpr": "Target FPR",
}
LEAD = ("guard", "language", "label", "event")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell: a rate with its interval, or text."""

    number: Number | None
    shown: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Heads and rows; the first cell of a row names it."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class TrainingView:
    """The training curve and what went into it."""

    chart: Markup | None
    label: str
    facts: tuple[tuple[str, str], ...]
    stages: tuple[tuple[str, ...], ...]


def table(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """A table of rows of JSON: names first, then rates (`x_low`, `x_high` become their interval), then the rest."""
    if not rows:
        return None
    keys = list(dict.fromkeys(k for row in rows for k in row))
    ends = {k for k in keys if k.endswith(("_low", "_high")) and k.rsplit("_", 1)[0] in keys}
    kept = [k for k in keys if k not in ends and not isinstance(rows[0].get(k), dict | list)]
    kept.sort(key=lambda k: LEAD.index(k) if k in LEAD else len(LEAD) + (k not in RATES))
    body = tuple(tuple(_cell(row, k) for k in kept) for row in rows)
    return Table(heads=tuple(TITLES.get(k, text.sentence(k.replace("_", " "))) for k in kept), rows=body)


def _cell(row: Mapping[str, Any], key: str) -> Cell:
    value = row.get(key)
    if key == "language":
        return Cell(number=None, shown=language_title(str(value or "")) or "all")
    if value is None:
        return Cell(number=unmeasured("") if key in RATES else None, shown=text.NOT_MEASURED)
    if key in RATES and isinstance(value, int | float):
        return Cell(number=_rate(row, key, float(value)), shown="")
    if isinstance(value, float):
        return Cell(number=None, shown=text.amount(value, ""))
    return Cell(number=None, shown=text.count(value) if type(value) is int else str(value).replace("_", " "))


def _rate(row: Mapping[str, Any], key: str, value: float) -> Number:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return Number(
        version="",
        shown=text.amount(value),
        interval=text.interval(low, high),
        counts="",
        anchor="",
        estimate=value,
        low=low,
        high=high,
        better="lower" if key in ("fpr", "false_positive_rate") else "higher",
    )


def training(frame: Frame) -> TrainingView | None:
    """The training section; None when no weights were trained."""
    found = frame.data.get("training")
    if not found:
        return None
    losses = found.get("losses") or []
    facts = [("Time", text.duration(found.get("seconds")))]
    examples = found.get("examples")
    facts += [(text.sentence(k.replace("_", " ")), text.count(n)) for k, n in (examples or {}).items()]
    if not examples:
        facts.append(("Examples", text.NOT_MEASURED))
    stages = list(dict.fromkeys(r.get("stage") or "training" for r in losses))
    rows = []
    for stage in stages:
        mine = [r for r in losses if (r.get("stage") or "training") == stage]
        rows.append((stage, str(len(mine)), f"{mine[0]['loss']:.4g}", f"{mine[-1]['loss']:.4g}"))
    return TrainingView(
        chart=charts.loss_chart(losses) if losses else None,
        label=f"Line chart of training loss by step; stages: {', '.join(stages)}. The table gives first and last.",
        facts=tuple(facts),
        stages=tuple(rows),
    )
