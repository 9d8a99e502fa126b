"""How commands speak: tables for people, one JSON object for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from fivefold.types import Measurement, plain

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 160

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="smollm2, hf:org/name, a path, openai/…, http://…/v1, scripted:…")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most this many cases per language.")]


def console() -> Console:
    """Standard output for people: as wide as the terminal, and wide enough for a table where there is none."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPED_WIDTH
    return Console(highlight=False, width=wide)


def error_console() -> Console:
    """Standard error for people."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.buffer.write(orjson.dumps(plain(value), option=orjson.OPT_SORT_KEYS) + b"\n")
    sys.stdout.flush()


def print_json_lines(values: Iterable[Any]) -> None:
    """One JSON object a line."""
    for value in values:
        print_json(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table."""
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*[str(cell) for cell in row])
    console().print(shown)


def measurement_row(m: Measurement) -> tuple[str, str, str, str, str]:
    """(metric, slice, estimate, interval, counts) as text; "not measured" when nothing was scored, "(corrected)" for
    the judge's own error where it was."""
    where = " ".join(f"{k}={v}" for k, v in m.slice.items()) or "all"
    metric = f"{m.metric} (corrected)" if m.corrects else m.metric
    counts = f"{m.n_scored} scored"
    if m.n_unscored or m.n_errored:
        counts += f", {m.n_unscored} unscored, {m.n_errored} errored"
    if m.estimate is None:
        return metric, where, "not measured", "", counts
    interval = "" if m.low is None or m.high is None else f"[{m.low:.3f}, {m.high:.3f}]"
    return metric, where, f"{m.estimate:.3f}", interval, counts


def measurement_json(m: Measurement, **extra: Any) -> dict[str, Any]:
    """A measurement as DESIGN §3 prints it."""
    body: Mapping[str, Any] = plain(m)  # type: ignore[assignment]
    return {**body, **extra}
