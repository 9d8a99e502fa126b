"""What importers share: what a file becomes, and the limits that keep a hostile one from doing harm.

A result file is input from somebody else. It is read as data alone: nothing in it is run, looked up or followed; sizes,
depths and counts are bounded before they are believed; a number that is no number is refused rather than turned into a
score; text is cut.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.types import Errored, Outcome, Safer, Scored, Unscored, digest

MAX_FILE_BYTES = 2_000_000_000
MAX_LINE_BYTES = 50_000_000
MAX_ROWS = 2_000_000
MAX_TEXT = 2_000
MAX_NAME = 300


@dataclass(frozen=True, kw_only=True)
class ImportedRow:
    """One sample: its outcome and what the file says of it."""

    outcome: Outcome
    category: str = ""
    language: str = ""
    behaviour: str = ""
    minutes: float | None = None


@dataclass(frozen=True, kw_only=True)
class ImportedSuite:
    """One metric of one task. `settings` are what the tool recorded of how it asked."""

    suite: str
    metric: str
    safer: Safer
    rows: Mapping[str, ImportedRow]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A result file. `model` is the name that the tool gives; `notes` say what was not taken over, and why; `files` are
    those that were read."""

    tool: str
    tool_version: str
    model: str
    suites: tuple[ImportedSuite, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def read_json(path: Path) -> Any:
    """A JSON file within the limits; DataError for what is no JSON or nests too deep."""
    check_size(path)
    try:
        return json.loads(path.read_bytes(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON", got=str(error)[:200]) from error


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, value) of each line of a JSONL file."""
    check_size(path)
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{where}: the line is too long", expected=f"at most {MAX_LINE_BYTES} bytes")
            if number > MAX_ROWS:
                raise DataError(f"{path} holds too many lines", expected=f"at most {MAX_ROWS}")
            if line.strip():
                try:
                    yield where, json.loads(line, parse_constant=_no_constant)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where}: not JSON", got=str(error)[:200]) from error


def first_line(path: Path) -> Mapping[str, Any]:
    """The first object of a JSONL file, or nothing: for telling formats apart."""
    try:
        value = next(read_lines(path))[1]
    except (DataError, StopIteration, OSError):
        return {}
    return value if isinstance(value, dict) else {}


def regular(path: Path) -> bool:
    """Whether a file that was found beside another one is a file of its own: a link may lead anywhere."""
    return path.is_file() and not path.is_symlink()


def check_size(path: Path) -> None:
    """DataError for a file that is not there or too large."""
    if not path.is_file():
        raise DataError(f"no file {path}")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise DataError(f"{path} is too large", expected=f"at most {MAX_FILE_BYTES} bytes", got=size)


def score(value: Any, judge: str, explanation: str = "") -> Outcome:
    """A number or a boolean as a score; nothing else is one."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return Scored(value=float(value), label=f"{value}", judge=judge, explanation=text(explanation))
    return Unscored(reason=f"the score is {str(value)[:80]!r}", judge=judge)


def errored(what: Any, judge: str) -> Outcome:
    """A failure that the tool recorded."""
    return Errored(error=text(what) or "the tool recorded a failure", judge=judge)


def judge_of(tool: str, *parts: Any) -> str:
    """Digest of who judged: the tool, the task and the metric."""
    return digest({"imported from": tool, "parts": [str(p) for p in parts]})


def text(value: Any, limit: int = MAX_TEXT) -> str:
    """A text of bounded length, without characters that no store and no terminal should get."""
    flat = value if isinstance(value, str) else "" if value is None else str(value)
    kept = "".join(c for c in flat[: 2 * limit] if c in "\n\t" or (c.isprintable() and not "\ud800" <= c <= "\udfff"))
    return kept[:limit]


def name(value: Any) -> str:
    """A short name on one line."""
    return " ".join(text(value, MAX_NAME).split())


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """An object, or DataError."""
    if not isinstance(value, dict):
        raise DataError(f"{where} is not an object", got=type(value).__name__)
    return value


def add_row(rows: dict[str, ImportedRow], id: Any, row: ImportedRow, where: str) -> None:
    """Add a sample under its id; a repeated one gets a number, because repeats are samples of their own."""
    base = name(id) or str(len(rows))
    key, n = base, 2
    while key in rows:
        key, n = f"{base}#{n}", n + 1
        if n > 1000:
            raise DataError(f"{where}: the id {base!r} repeats too often", expected="at most 1000 samples of one id")
    if len(rows) >= MAX_ROWS:
        raise DataError(f"{where}: too many samples", expected=f"at most {MAX_ROWS}")
    behaviour = row.behaviour or base
    rows[key] = ImportedRow(**{**vars(row), "behaviour": behaviour})


def _no_constant(found: str) -> None:
    """NaN and infinities are not JSON, and not scores: they stay None, which is no score."""
    return None
