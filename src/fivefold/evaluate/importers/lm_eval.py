"""lm-evaluation-harness: `results_*.json` with `samples_*.jsonl` beside it (`--log_samples`), or one samples file.

The results file alone holds means without samples: they cannot be paired or counted, so it is refused without them.
Layout as written by lm-eval 0.4: a sample has `doc_id`, `target`, `filter`, `metrics` (names) and one number a metric.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.evaluate.importers import _base as base
from fivefold.types import Safer

TOOL = "lm-eval"
_SAMPLES = re.compile(r"samples_(?P<task>.+?)_(?P<stamp>\d{4}-\d{2}-\d{2}T[\d.:-]+)\.jsonl$")
_RESULTS = re.compile(r"results_(?P<stamp>.+)\.json$")


def matches(path: Path) -> bool:
    """Whether the file's name or first line looks like one of theirs."""
    if _SAMPLES.search(path.name) or _RESULTS.search(path.name):
        return True
    return path.suffix == ".jsonl" and {"doc_id", "resps"} <= base.first_line(path).keys()


def read(path: Path) -> base.Imported:
    """All samples that belong to a results file, or those of one samples file."""
    results: Mapping[str, Any] = {}
    files = [path]
    if found := _RESULTS.search(path.name):
        results = base.mapping(base.read_json(path), str(path))
        files = sorted(p for p in path.parent.glob(f"samples_*_{found['stamp']}.jsonl") if base.regular(p))
        if not files:
            raise DataError(
                f"{path} has no samples beside it",
                expected=f"samples_TASK_{found['stamp']}.jsonl in the same folder",
                next_step="run lm_eval again with --log_samples",
            )
    suites = [suite for file in files for suite in _suites(file, results)]
    if not suites:
        raise DataError(f"{path} holds no scored samples")
    return base.Imported(
        tool=TOOL,
        tool_version=base.name(results.get("lm_eval_version")) or "unknown",
        model=base.name(results.get("model_name")) or "unknown",
        suites=tuple(suites),
        files=tuple(dict.fromkeys([path, *files])),
        notes=() if results else ("no results file: the model's name and version are not known",),
    )


def _suites(file: Path, results: Mapping[str, Any]) -> list[base.ImportedSuite]:
    match = _SAMPLES.search(file.name)
    task = base.name(match["task"] if match else file.stem)
    rows: dict[tuple[str, str], dict[str, base.ImportedRow]] = {}
    for where, line in base.read_lines(file):
        sample = base.mapping(line, where)
        filter_ = base.name(sample.get("filter") or "none")
        for metric in _metrics(sample):
            outcome = base.score(sample.get(metric), base.judge_of(TOOL, task, metric, filter_))
            kept = rows.setdefault((metric, filter_), {})
            base.add_row(kept, sample.get("doc_id"), base.ImportedRow(outcome=outcome), where)
    several = len({f for _, f in rows}) > 1
    return [
        base.ImportedSuite(
            suite=task,
            metric=f"{metric},{filter_}" if several else metric,
            safer=_safer(results, task, metric),
            rows=found,
            settings=_settings(results, task),
        )
        for (metric, filter_), found in rows.items()
    ]


def _metrics(sample: Mapping[str, Any]) -> list[str]:
    listed = sample.get("metrics")
    names = listed if isinstance(listed, list) else ["acc", "acc_norm", "exact_match"]
    return [str(n) for n in names if isinstance(n, str) and n in sample]


def _safer(results: Mapping[str, Any], task: str, metric: str) -> Safer:
    """`higher_is_better` where the file has it, else no direction."""
    table = results.get("higher_is_better")
    known = table.get(task, {}) if isinstance(table, dict) else {}
    up = known.get(metric) if isinstance(known, dict) else None
    return "higher" if up is True else "lower" if up is False else "neither"


def _settings(results: Mapping[str, Any], task: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, field in (("n-shot", "shots"), ("versions", "version")):
        table = results.get(key)
        if isinstance(table, dict) and isinstance(table.get(task), int | float | str):
            out[field] = table[task] if not isinstance(table[task], str) else base.name(table[task])
    return out
