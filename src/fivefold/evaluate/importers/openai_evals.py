"""OpenAI evals: one JSONL log a run, a `spec` line first, then events; `match` events (and `metrics` events with a
`choice` or a `score`) carry one sample's result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.evaluate.importers import _base as base

TOOL = "openai-evals"


def matches(path: Path) -> bool:
    """Whether the first line is a `spec`."""
    return path.suffix == ".jsonl" and isinstance(base.first_line(path).get("spec"), dict)


def read(path: Path) -> base.Imported:
    """The samples of one run."""
    spec: Mapping[str, Any] = {}
    rows: dict[str, dict[str, base.ImportedRow]] = {}
    for where, line in base.read_lines(path):
        event = base.mapping(line, where)
        if isinstance(event.get("spec"), dict):
            spec = event["spec"]
            continue
        if event.get("type") not in ("match", "metrics"):
            continue
        data = base.mapping(event.get("data"), f"{where}: data")
        for metric, value in _values(event["type"], data):
            task = base.name(spec.get("base_eval") or spec.get("eval_name"))
            outcome = base.score(value, base.judge_of(TOOL, task, metric))
            base.add_row(rows.setdefault(metric, {}), event.get("sample_id"), base.ImportedRow(outcome=outcome), where)
    if not rows:
        raise DataError(f"{path} holds no match or score events")
    models = spec.get("completion_fns")
    return base.Imported(
        tool=TOOL,
        files=(path,),
        tool_version="unknown",
        model=base.name(models[0] if isinstance(models, list) and models else spec.get("model_name")) or "unknown",
        suites=tuple(
            base.ImportedSuite(
                suite=base.name(spec.get("eval_name") or spec.get("base_eval") or path.stem),
                metric=metric,
                safer="higher" if metric == "correct" else "neither",
                rows=found,
            )
            for metric, found in rows.items()
        ),
    )


def _values(kind: Any, data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if kind == "match":
        return [("correct", data.get("correct"))]
    if kind == "metrics" and "score" in data:
        return [("score", data.get("score"))]
    return []
