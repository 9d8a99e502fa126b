"""Inspect: `.eval` logs. Read by Inspect itself behind the engine, after the archive's sizes were checked."""

from __future__ import annotations

from pathlib import Path

from fivefold.engine.imported import read_log
from fivefold.errors import DataError
from fivefold.evaluate.importers import _base as base

TOOL = "inspect"


def matches(path: Path) -> bool:
    """Whether its name ends in `.eval`."""
    return path.suffix == ".eval"


def read(path: Path) -> base.Imported:
    """Every scorer of the log; samples that Inspect marks as errors are Errored, epochs of one sample one cluster."""
    base.check_size(path)
    log = read_log(path)
    suites = []
    for scorer, outcomes in log.outcomes.items():
        rows: dict[str, base.ImportedRow] = {}
        for id, outcome in outcomes.items():
            metadata = log.metadata.get(id, {})
            minutes = metadata.get("human_minutes")
            row = base.ImportedRow(
                outcome=outcome,
                behaviour=base.name(metadata.get("behaviour") or id.partition("#")[0]),
                category=base.name(metadata.get("category")),
                language=base.name(metadata.get("language")),
                minutes=float(minutes) if isinstance(minutes, int | float) and minutes > 0 else None,
            )
            base.add_row(rows, id, row, str(path))
        settings = {k: v for k, v in log.settings.items() if isinstance(v, int | float | str)}
        suites.append(
            base.ImportedSuite(suite=base.name(log.task), metric=scorer, safer="neither", rows=rows, settings=settings)
        )
    if not suites or not any(s.rows for s in suites):
        raise DataError(f"{path} holds no samples", next_step="is the run finished? inspect view shows it")
    notes = () if log.status == "success" else (f"the run's status is {log.status}: it may be incomplete",)
    return base.Imported(
        tool=TOOL,
        tool_version=base.name(log.version),
        model=base.name(log.model),
        suites=tuple(suites),
        files=(path,),
        notes=notes,
    )
