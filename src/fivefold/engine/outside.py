"""Tasks of other packages (`inspect_evals/agentdojo`) or files (`task.py@name`) on our models, as outcomes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivefold.engine.run import _in_own_loop, _one_run, _surroundings
from fivefold.engine.serving import Budget, Served
from fivefold.errors import FivefoldError, MissingExtraError
from fivefold.runtime.cached import CachedModel, Memory
from fivefold.runtime.protocol import Capability, Model, require
from fivefold.types import Errored, Outcome, Scored, Unscored, digest

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

MAX_OPEN = 32
WORDS = {"C": 1.0, "I": 0.0, "P": 0.5, "yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}
"""Inspect's usual verdicts as numbers. Its "no answer" is not among them: that is no score."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What a task gave. `outcomes`: scorer (and the key of its value, if it has several) -> sample -> outcome."""

    task: str
    version: str
    outcomes: Mapping[str, Mapping[str, Outcome]]
    log_path: Path
    seconds: float


def run_task(
    model: Model,
    task: str,
    *,
    log_dir: Path,
    args: Mapping[str, Any] | None = None,
    limit: int | None = None,
    epochs: int | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] | None = None,
    sandbox: str | None = None,
    cache: Memory | None = None,
    budget: Budget | None = None,
) -> TaskResult:
    """Run one Inspect task on `model`; `limit` samples of it, each `epochs` times.

    The task's own settings hold where none is given. `sandbox` replaces the task's sandbox. Raises FivefoldError when
    the task cannot be loaded or fails as a whole; a sample that fails, or that a spent `budget` cuts
    off, is Errored.
    """
    require(model, Capability.GENERATE, for_=f"the task {task}")
    served = Served(model if cache is None else CachedModel(model, cache), budget=budget)
    settings: dict[str, Any] = {
        "max_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "sandbox": sandbox,
    }
    settings["stop_seqs"] = list(stop) if stop else None
    options = {key: value for key, value in settings.items() if value is not None}
    start = time.monotonic()
    with _one_run, _surroundings(log_dir):
        log = _eval(served, task, log_dir=log_dir, task_args=dict(args or {}), limit=limit, epochs=epochs, **options)
    return TaskResult(
        task=task,
        version=str(log.eval.task_version),
        outcomes=_outcomes(log.samples or (), judge=digest({"task": task, "version": log.eval.task_version})),
        log_path=Path(log.location.removeprefix("file://")),
        seconds=time.monotonic() - start,
    )


def _eval(served: Served, task: str, *, log_dir: Path, **options: Any) -> EvalLog:
    try:
        import inspect_ai
    except ImportError as error:
        raise MissingExtraError("inspect_ai", "eval") from error
    from inspect_ai.log import read_eval_log
    from inspect_ai.model import get_model

    from fivefold.engine.provider import register, unregister

    handle = register(served)
    try:
        logs = _in_own_loop(
            lambda: inspect_ai.eval(
                task,
                model=get_model(f"fivefold/{handle}", memoize=False),
                log_dir=str(log_dir),
                log_format="eval",
                log_level="error",
                log_header_only=True,
                display="none",
                score_display=False,
                fail_on_error=False,
                max_samples=MAX_OPEN,
                max_connections=MAX_OPEN,
                max_retries=0,
                **options,
            )
        )
    except FivefoldError:
        raise
    except Exception as error:
        raise FivefoldError(f"the task {task} cannot be run", got=f"{type(error).__name__}: {error}") from error
    finally:
        unregister(handle)
    if not logs:
        raise FivefoldError(f"no task {task}, or it was stopped before it began", next_step="inspect list tasks")
    header = logs[0]
    if header.status == "cancelled":
        raise KeyboardInterrupt
    if header.status != "success" or header.location is None:
        raise FivefoldError(f"the task {task} failed", got=header.error.message if header.error else header.status)
    return read_eval_log(header.location)


def _outcomes(samples: Sequence[EvalSample], *, judge: str) -> dict[str, dict[str, Outcome]]:
    """Every sample has an outcome under every metric that any sample has."""
    read = {_id(sample): _scores(sample, judge) for sample in samples}
    metrics = sorted({name for scores in read.values() for name in scores})
    failed = {_id(sample): sample.error.message for sample in samples if sample.error is not None}
    out: dict[str, dict[str, Outcome]] = {}
    for metric in metrics or ["score"]:
        out[metric] = {
            id: Errored(error=failed[id], judge=judge)
            if id in failed
            else scores.get(metric, Errored(error="the log holds no score of this sample", judge=judge))
            for id, scores in read.items()
        }
    return out


def _id(sample: EvalSample) -> str:
    return f"{sample.id}" if sample.epoch == 1 else f"{sample.id}#{sample.epoch}"


def _scores(sample: EvalSample, judge: str) -> dict[str, Outcome]:
    out: dict[str, Outcome] = {}
    for name, score in (sample.scores or {}).items():
        value = score.value
        parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
        out |= {key: outcome_of(part, judge=judge, explanation=score.explanation or "") for key, part in parts.items()}
    return out


def outcome_of(value: object, *, judge: str, explanation: str = "") -> Outcome:
    """One of Inspect's score values as an outcome. What is no number and no usual verdict is Unscored, never zero."""
    number = WORDS.get(value) if isinstance(value, str) else value
    if isinstance(number, bool | int | float) and math.isfinite(number):
        return Scored(value=float(number), label=str(value), judge=judge, explanation=explanation[:500])
    return Unscored(reason=f"the score is {str(value)[:80]!r}", judge=judge)
