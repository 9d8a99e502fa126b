"""One run: cases, a model and a scorer go in; outcomes read back from an Inspect log come out.

The transcript is the `.eval` log, which `inspect view` opens. Everything that Inspect would take from its surroundings
(`.env`, `INSPECT_*` levels, its data folder) is fixed here, so that a run depends on its arguments alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fivefold.engine.serving import Budget, Served
from fivefold.errors import DataError, FivefoldError, MissingExtraError
from fivefold.runtime.cached import CachedModel, Memory
from fivefold.runtime.protocol import Capability, Model, require
from fivefold.score.protocol import Scorer
from fivefold.types import Case, Completion, Errored, Outcome, Unscored, Usage, outcome_from_json

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.log import EvalLog, EvalSample

OnProgress: TypeAlias = Callable[[int, int, float], None]
"""Called with (cases answered, cases in all, seconds since the start)."""

MAX_OPEN = 512
"""Samples open at once; their requests meet in one batch."""

_one_run = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run gave. `outcomes` has an entry for every case; `completions` for every case that was answered."""

    outcomes: Mapping[str, Outcome]
    completions: Mapping[str, Completion]
    log_path: Path
    usage: Usage
    seconds: float
    stopped_early: bool
    earlier_logs: tuple[Path, ...] = ()
    """Logs of the looks before `log_path`, where cases were asked in several."""


def run_cases(
    model: Model,
    cases: Sequence[Case],
    scorer: Scorer,
    *,
    name: str,
    log_dir: Path,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    on_progress: OnProgress | None = None,
    cache: Memory | None = None,
    seconds: float | None = None,
    budget: Budget | None = None,
) -> RunResult:
    """Ask `model` every case and judge the answers. A string of `stop` ends an answer and is not part of it.

    `cache` remembers answers by model fingerprint and request, so a killed run continues and a repeated one asks
    nothing. After `seconds`, or when a `budget` shared with other runs is spent, the cases that were not started are
    Unscored("budget"). A failure of the model or the judge
    is that case's Errored. Raises DataError for no cases or duplicate ids, MissingExtraError without Inspect.
    """
    _check(model, cases)
    asked = model if cache is None else CachedModel(model, cache)
    start = time.monotonic()
    served = Served(asked, budget=budget or Budget(seconds=seconds), on_answer=_counter(len(cases), start, on_progress))
    n_choice = sum(_is_choice(case) for case in cases)
    served.generations.expect(min(len(cases) - n_choice, MAX_OPEN))
    served.scores.expect(min(n_choice, MAX_OPEN))
    config: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    if stop := tuple(s for s in stop if s):
        config["stop_seqs"] = list(stop)
    with _one_run, _surroundings(log_dir):
        log = _eval(served, lambda: _task(cases, scorer, name), name=name, log_dir=log_dir, config=config)
    return _result(log, cases, scorer, time.monotonic() - start)


def _check(model: Model, cases: Sequence[Case]) -> None:
    if not cases:
        raise DataError(
            "there are no cases to run", next_step="look at the suite, the split, the languages and --limit"
        )
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise DataError(f"two cases have the id {case.id!r}", expected="ids that are unique")
        seen.add(case.id)
    if not all(map(_is_choice, cases)):
        require(model, Capability.GENERATE, for_="answering cases")
    if any(map(_is_choice, cases)):
        require(model, Capability.LIKELIHOOD, for_="multiple choice by likelihood")


def _is_choice(case: Case) -> bool:
    return bool(case.choices) and isinstance(case.target, int)


def _counter(total: int, start: float, on_progress: OnProgress | None) -> Callable[[], None] | None:
    if on_progress is None:
        return None
    lock, done = threading.Lock(), 0

    def answered() -> None:
        nonlocal done
        with lock:
            done += 1
            on_progress(min(done, total), total, time.monotonic() - start)

    return answered


def _task(cases: Sequence[Case], scorer: Scorer, name: str) -> Task:
    from fivefold.engine.task import task_of

    return task_of(cases, scorer, name=name)


def _eval(served: Served, task: Callable[[], Task], *, name: str, log_dir: Path, config: Mapping[str, Any]) -> EvalLog:
    import inspect_ai
    from inspect_ai.log import read_eval_log
    from inspect_ai.model import get_model

    from fivefold.engine.provider import register, unregister

    handle = register(served)
    try:
        logs = _in_own_loop(
            lambda: inspect_ai.eval(
                task(),
                model=get_model(f"fivefold/{handle}", memoize=False),
                log_dir=str(log_dir),
                log_format="eval",
                log_level="error",
                log_level_transcript="error",
                log_realtime=False,
                log_buffer=MAX_OPEN,
                log_header_only=True,
                log_model_api=False,
                display="none",
                score_display=False,
                ctl_server=False,
                fail_on_error=False,
                max_samples=MAX_OPEN,
                max_connections=MAX_OPEN,
                max_retries=0,
                epochs=1,
                **config,
            )
        )
    finally:
        unregister(handle)
    if not logs or logs[0].status == "cancelled":
        raise KeyboardInterrupt
    header = logs[0]
    if header.status != "success" or header.location is None:
        reason = header.error.message if header.error else header.status
        raise FivefoldError(f"the run {name} failed before any case was scored", got=reason)
    return read_eval_log(header.location)


def _in_own_loop(call: Callable[[], list[EvalLog]]) -> list[EvalLog]:
    """Inspect starts an event loop of its own; a caller that is inside one (a notebook, a server) gets a thread."""
    if not _inside_a_loop():
        return call()
    result: list[list[EvalLog]] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="fivefold-run")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _inside_a_loop() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _surroundings(log_dir: Path) -> Iterator[None]:
    """Keep Inspect's traces beside its logs, ignore `.env`, and leave the process's logging and display as they were."""
    try:
        from inspect_ai._display.core import active
    except ImportError as error:
        raise MissingExtraError("inspect_ai", "eval") from error
    log_dir.mkdir(parents=True, exist_ok=True)
    fixed = {
        "PYTHON_DOTENV_DISABLED": "1",
        "XDG_DATA_HOME": str(log_dir / ".inspect"),
        "INSPECT_TRACE_FILE": str(log_dir / ".inspect" / "trace.log"),
        "INSPECT_LOG_DIR": str(log_dir),
        "INSPECT_EVAL_LOG_FILE_PATTERN": "{task}_{id}",
    }
    removed = [key for key in os.environ if key.startswith("INSPECT_") and key not in fixed]
    before = {key: os.environ.get(key) for key in (*fixed, *removed)}
    (log_dir / ".inspect").mkdir(exist_ok=True)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    # Inspect keeps the first display of a process for ever: one that an earlier run opened would print into our output.
    shown, active._active_display = active._active_display, None
    try:
        for key in removed:
            del os.environ[key]
        os.environ.update(fixed)
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        root.handlers[:] = handlers
        root.setLevel(level)
        active._active_display = shown


def _result(log: EvalLog, cases: Sequence[Case], scorer: Scorer, seconds: float) -> RunResult:
    samples = {str(sample.id): sample for sample in log.samples or ()}
    completions: dict[str, Completion] = {}
    for id, sample in samples.items():
        found = _completion(sample)
        if found is not None:
            completions[id] = found
    outcomes = {case.id: _outcome(samples.get(case.id), scorer) for case in cases}
    usage = sum((c.usage for c in completions.values()), Usage())
    return RunResult(
        outcomes=outcomes,
        completions=completions,
        log_path=Path(log.location.removeprefix("file://")),
        usage=usage,
        seconds=seconds,
        stopped_early=any(isinstance(o, Unscored) and o.reason == "budget" for o in outcomes.values()),
    )


def _outcome(sample: EvalSample | None, scorer: Scorer) -> Outcome:
    if sample is None:
        return Errored(error="the log holds no such case", judge=scorer.digest)
    if sample.error is not None:
        return Errored(error=sample.error.message, judge=scorer.digest)
    score = (sample.scores or {}).get(scorer.name)
    kept = (score.metadata or {}).get("fivefold") if score else None
    if not isinstance(kept, dict):
        return Errored(error="the log holds no score of this case", judge=scorer.digest)
    return outcome_from_json(kept)


def _completion(sample: EvalSample) -> Completion | None:
    from fivefold.engine.task import KEY, completion_of

    if not sample.output.metadata or KEY not in sample.output.metadata:
        return None
    return completion_of(sample.output)
