"""HELM: a run's folder with `run_spec.json` and `per_instance_stats.json` (or either file of it).

Perturbed instances are samples under the perturbation's name; statistics of the main metrics only: those between 0 and 1
that HELM's scenarios report as accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.evaluate.importers import _base as base

TOOL = "helm"
METRICS = (
    "exact_match",
    "quasi_exact_match",
    "prefix_exact_match",
    "quasi_prefix_exact_match",
    "final_number_exact_match",
    "math_equiv",
    "ifeval_strict_accuracy",
    "safety_score",
)


def matches(path: Path) -> bool:
    """Whether it is a run's folder or one of its files."""
    folder = path if path.is_dir() else path.parent
    named = path.is_dir() or path.name in ("per_instance_stats.json", "run_spec.json")
    return named and base.regular(folder / "per_instance_stats.json")


def read(path: Path) -> base.Imported:
    """Every metric of the folder that `METRICS` names."""
    folder = path if path.is_dir() else path.parent
    spec_file, stats_file = folder / "run_spec.json", folder / "per_instance_stats.json"
    if not base.regular(stats_file):
        raise DataError(f"{folder} has no file per_instance_stats.json of its own")
    spec = base.mapping(base.read_json(spec_file), str(spec_file)) if base.regular(spec_file) else {}
    stats = base.read_json(stats_file)
    if not isinstance(stats, list):
        raise DataError(f"{folder} has no list of instances", got=type(stats).__name__)
    task = base.name(spec.get("name") or folder.name).partition(":")[0]
    rows: dict[str, dict[str, base.ImportedRow]] = {}
    for place, item in enumerate(stats):
        where = f"{folder}/per_instance_stats.json[{place}]"
        _instance(base.mapping(item, where), task, rows, where)
    if not rows:
        raise DataError(f"{folder} has none of the metrics that are read", expected=", ".join(METRICS))
    adapter = spec.get("adapter_spec")
    adapter = adapter if isinstance(adapter, dict) else {}
    settings = {k: adapter[k] for k in ("max_train_instances", "temperature", "max_tokens") if _number(adapter.get(k))}
    return base.Imported(
        tool=TOOL,
        tool_version="unknown",
        files=tuple(f for f in (spec_file, stats_file) if base.regular(f)),
        model=base.name(adapter.get("model_deployment") or adapter.get("model")) or "unknown",
        suites=tuple(
            base.ImportedSuite(suite=task, metric=metric, safer="higher", rows=found, settings=settings)
            for metric, found in rows.items()
        ),
    )


def _instance(item: Any, task: str, rows: dict[str, dict[str, base.ImportedRow]], where: str) -> None:
    perturbation = item.get("perturbation")
    changed = base.name(perturbation.get("name")) if isinstance(perturbation, dict) else ""
    id = base.name(item.get("instance_id"))
    for stat in item.get("stats") or ():
        stat = base.mapping(stat, where)
        named = stat.get("name")
        metric = base.name(named.get("name")) if isinstance(named, dict) else ""
        if metric in METRICS:
            value = stat.get("mean") if "mean" in stat else stat.get("sum")
            outcome = base.score(value, base.judge_of(TOOL, task, metric))
            row = base.ImportedRow(outcome=outcome, behaviour=id)
            base.add_row(rows.setdefault(metric, {}), f"{id}/{changed}" if changed else id, row, where)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
