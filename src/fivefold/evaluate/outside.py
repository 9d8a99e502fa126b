"""Evaluations of inspect-evals on any of our models, as measurements with intervals like those of our own suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fivefold.engine.outside import TaskResult, run_task
from fivefold.engine.serving import Budget
from fivefold.errors import UsageError
from fivefold.evaluate.catalogue import Entry, runnable
from fivefold.evaluate.run import EvaluationResult, Ledger, code_digest
from fivefold.runtime.cached import Memory
from fivefold.runtime.precision import dtype_of
from fivefold.runtime.protocol import Model
from fivefold.stats import measure_mean, measure_rate
from fivefold.types import Measurement, Safer, Scored, digest

JUDGES = ("grader_model", "scorer_model", "judge_llm", "refusal_judge", "semantic_judge", "judge_model")
"""Arguments by which tasks of inspect-evals name their judge."""


def evaluate_outside(
    model: Model,
    entry: Entry,
    *,
    log_dir: Path,
    args: Mapping[str, Any] | None = None,
    limit: int | None = None,
    epochs: int | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    stop: tuple[str, ...] | None = None,
    subject_name: str | None = None,
    level: float = 0.95,
    run: str = "",
    store: Ledger | None = None,
    cache: Memory | None = None,
    budget: Budget | None = None,
) -> EvaluationResult:
    """Run an entry's tasks; one measurement for each task and scorer, called `<entry>/<scorer>`.

    `args` are passed to the tasks beside the entry's own; one that names a judge makes its default judge's key
    unnecessary. UsageError that lists what is missing here.
    """
    lines = runnable(entry.name, own_judge=any(key in JUDGES for key in args or {}))
    if entry.runs != "inspect-evals" or lines:
        raise UsageError(f"{entry.name} cannot run here", expected="an entry of inspect-evals", got="; ".join(lines))
    shared: dict[str, Any] = {"limit": limit, "epochs": epochs, "max_new_tokens": max_new_tokens, "seed": seed}
    shared |= {"stop": stop} if stop else {}
    shared["args"] = {**entry.args, **(args or {})}
    results = [
        run_task(model, f"inspect_evals/{t}", log_dir=log_dir, cache=cache, budget=budget, **shared)
        for t in entry.tasks
    ]
    settings = shared | ({"dtype": dtype} if (dtype := dtype_of(model)) else {})
    subject = {"subject": model.fingerprint, "subject_name": subject_name or model.name, "run": run}
    made = [
        _measure(entry, result, scorer, level=level, settings=settings, **subject)
        for result in results
        for scorer in result.outcomes
    ]
    kept = [store.add_measurement(m) if store else replace(m, id=f"m-{digest(m)[:16]}") for m in made]
    return EvaluationResult(
        name=entry.name,
        measurements=tuple(kept),
        corrected=(),
        cases=(),
        outcomes={f"{r.task}/{s}/{id}": o for r in results for s, per in r.outcomes.items() for id, o in per.items()},
        completions={},
        log_path=results[-1].log_path,
        seconds=sum(r.seconds for r in results),
        stopped_early=False,
    )


def _measure(
    entry: Entry, result: TaskResult, scorer: str, *, level: float, settings: Mapping[str, Any], **subject: str
) -> Measurement:
    """A rate where every score is 0 or 1, else a mean. Samples that repeat one item are one cluster."""
    outcomes = result.outcomes[scorer]
    version = {"task": result.task, "version": result.version}
    safer: Safer = entry.scores.get(scorer, entry.safer if len(result.outcomes) == 1 else "neither")
    common: dict[str, Any] = {
        "metric": f"{entry.name}/{scorer}",
        "safer": safer,
        "clusters": [id.partition("#")[0] for id in outcomes],
        "level": level,
        "slice": {"task": result.task} if len(entry.tasks) > 1 else {},
        "dataset": digest({**version, "samples": sorted(outcomes)}),
        "code": code_digest(),
        "judge": digest({**version, "scorer": scorer}),
        "metadata": {"suite": entry.name, "settings": dict(settings), "log": result.log_path.name, "task": result.task},
        **subject,
    }
    rated = list(outcomes.values())
    if all(o.value in (0.0, 1.0) for o in rated if isinstance(o, Scored)):
        return measure_rate(rated, **common)
    return measure_mean(rated, unit="score", **common)
