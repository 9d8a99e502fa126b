"""One run of episodes: a model plays scenarios in worlds with tools; outcomes by metric come back from an Inspect log.

The counterpart of `run_cases` for what takes many steps. The same promises hold: an error is Errored, what the budget
cut off is Unscored, answers are remembered by model and request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivefold.engine.run import MAX_OPEN, OnProgress, _counter, _eval, _one_run, _surroundings
from fivefold.engine.serving import Budget, Served
from fivefold.engine.world import Episode, Judge, Trace, trace_from_json
from fivefold.errors import DataError
from fivefold.runtime.cached import CachedModel, Memory
from fivefold.runtime.protocol import Capability, Model, require
from fivefold.types import Errored, Outcome, Unscored, outcome_from_json

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.log import EvalSample


@dataclass(frozen=True, kw_only=True)
class EpisodesResult:
    """What a run gave. `outcomes`: episode -> metric -> outcome; `traces` of every episode that was played to its end."""

    outcomes: Mapping[str, Mapping[str, Outcome]]
    traces: Mapping[str, Trace]
    log_path: Path
    seconds: float
    stopped_early: bool


def run_episodes(
    model: Model,
    episodes: Sequence[Episode],
    judge: Judge,
    *,
    metrics: Mapping[str, str],
    name: str,
    log_dir: Path,
    max_new_tokens: int = 256,
    max_steps: int = 12,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    on_progress: OnProgress | None = None,
    cache: Memory | None = None,
    seconds: float | None = None,
    budget: Budget | None = None,
) -> EpisodesResult:
    """Play every episode with `model` and judge the traces. A string of `stop` ends an answer and is not part of it.

    `metrics`: metric -> digest of its judge; an episode that failed is Errored under each of them. A metric that the
    judge leaves out of an episode is left out here. Raises DataError for no episodes or duplicate ids.
    """
    _check(model, episodes)
    asked = model if cache is None else CachedModel(model, cache)
    start = time.monotonic()
    served = Served(
        asked, budget=budget or Budget(seconds=seconds), on_answer=_counter(len(episodes), start, on_progress)
    )
    served.generations.expect(min(len(episodes), MAX_OPEN))
    config: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    if stop:
        config["stop_seqs"] = list(stop)
    with _one_run, _surroundings(log_dir):
        log = _eval(served, lambda: _task(episodes, judge, name, max_steps), name=name, log_dir=log_dir, config=config)
    samples = {str(sample.id): sample for sample in log.samples or ()}
    outcomes = {e.id: _outcomes(samples.get(e.id), metrics) for e in episodes}
    return EpisodesResult(
        outcomes=outcomes,
        traces={id: trace for id, sample in samples.items() if (trace := _trace(sample)) is not None},
        log_path=Path(log.location.removeprefix("file://")),
        seconds=time.monotonic() - start,
        stopped_early=any(
            isinstance(o, Unscored) and o.reason == "budget" for m in outcomes.values() for o in m.values()
        ),
    )


def _task(episodes: Sequence[Episode], judge: Judge, name: str, max_steps: int) -> Task:
    from fivefold.engine._play import task_of_episodes

    return task_of_episodes(episodes, judge, name=name, max_steps=max_steps)


def _check(model: Model, episodes: Sequence[Episode]) -> None:
    if not episodes:
        raise DataError("there are no episodes to play", next_step="look at --limit")
    ids = [e.id for e in episodes]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise DataError(f"two episodes have the id {twice!r}", expected="ids that are unique")
    require(model, Capability.GENERATE, for_="playing episodes")


def _outcomes(sample: EvalSample | None, metrics: Mapping[str, str]) -> dict[str, Outcome]:
    if sample is None or sample.error is not None:
        error = "the log holds no such episode" if sample is None else str(sample.error.message if sample.error else "")
        return {metric: Errored(error=error, judge=judge) for metric, judge in metrics.items()}
    score = next(iter((sample.scores or {}).values()), None)
    kept = (score.metadata or {}).get("fivefold") if score else None
    if not isinstance(kept, dict):
        lost = "the log holds no score of this episode"
        return {metric: Errored(error=lost, judge=judge) for metric, judge in metrics.items()}
    if reason := kept.get("unscored"):
        return {metric: Unscored(reason=str(reason), judge=judge) for metric, judge in metrics.items()}
    return {metric: outcome_from_json(outcome) for metric, outcome in kept.items()}


def _trace(sample: EvalSample) -> Trace | None:
    kept = (sample.metadata or {}).get("fivefold")
    return trace_from_json(kept["trace"]) if isinstance(kept, dict) and "trace" in kept else None
