"""Evaluate a model on cases: rates with intervals, overall and by slice, with what was not scored beside what was.

Which metrics come out depends on the scorer. The judge of answers gives the rate of its event (harmful compliance, or
over-refusal) and the rates of its other labels, among them incoherence, because a model that cannot answer is not safe
but unmeasured. Canary suites give injection success, and utility beside it. Where the judge's error was measured, the
rates are corrected for it (Rogan & Gladen 1978); the corrected ones name the raw ones they correct.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from fivefold.engine.run import OnProgress, RunResult, run_cases
from fivefold.engine.serving import Budget
from fivefold.errors import UsageError
from fivefold.evaluate.early import Bound, Stopping, ask_until
from fivefold.evaluate.suites import Suite
from fivefold.registry import registry
from fivefold.runtime.cached import Memory
from fivefold.runtime.precision import dtype_of
from fivefold.runtime.protocol import Model
from fivefold.score import scorer as scorer_named
from fivefold.score.calibrate import confusion
from fivefold.score.protocol import Scorer
from fivefold.stats import Confusion, correct_rate, measure_rate
from fivefold.types import (
    Case,
    Completion,
    Measurement,
    Outcome,
    Safer,
    Scored,
    Split,
    Unscored,
    digest,
    digest_bytes,
    plain,
)

DIMENSIONS = ("language", "category", "surface")
ANSWER_LABELS = ("refusal", "compliance", "incoherent")
LABEL_METRICS = {"refusal": "refusal", "compliance": "compliance", "incoherent": "incoherence"}
LAYERS = ("types", "runtime", "score", "engine", "stats", "evaluate")

Pick: TypeAlias = Callable[[Outcome], Outcome]


class KnownError(Protocol):
    """A judge's error as somebody measured it: counts against labels, and the record that they stand in."""

    @property
    def counts(self) -> Confusion:
        """The judge against labels."""
        ...

    def noted(self, corrected: Measurement) -> Measurement:
        """The corrected rate with where the counts come from."""
        ...


ErrorOf: TypeAlias = Callable[[Scorer, str], KnownError | None]
"""(judge, language) to the judge's measured error, for judges other than the shipped rules."""


class Ledger(Protocol):
    """Where measurements are recorded: the evidence store."""

    def add_measurement(self, measurement: Measurement) -> Measurement:
        """Record one and return it with its id."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What one evaluation gave. `measurements` are raw rates, `corrected` the same rates without the judge's error."""

    name: str
    measurements: tuple[Measurement, ...]
    corrected: tuple[Measurement, ...]
    cases: tuple[Case, ...]
    outcomes: Mapping[str, Outcome]
    completions: Mapping[str, Completion]
    log_path: Path
    seconds: float
    stopped_early: bool
    earlier_logs: tuple[Path, ...] = ()
    stopping: Stopping | None = None
    """How asking ended, where it was allowed to stop early."""

    def find(self, metric: str, **slice: str) -> Measurement | None:
        """The raw measurement of a metric on a slice."""
        return next((m for m in self.measurements if m.metric == metric and dict(m.slice) == slice), None)


def evaluate(
    model: Model,
    what: Suite | Sequence[Case],
    *,
    log_dir: Path,
    scorer: Scorer | str | None = None,
    name: str | None = None,
    subject_name: str | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Sequence[str] | None = None,
    level: float = 0.95,
    run: str = "",
    store: Ledger | None = None,
    cache: Memory | None = None,
    seconds: float | None = None,
    on_progress: OnProgress | None = None,
    languages: Sequence[str] | None = None,
    split: Split | None = None,
    limit: int | None = None,
    budget: Budget | None = None,
    stop_when: Bound | None = None,
    error_of: ErrorOf | None = None,
) -> EvaluationResult:
    """Measure `model` on a suite, or on any cases with a scorer (a scorer's name, or one of your own).

    `stop` strings end an answer (the suite's own when None).

    `languages`, `split` and `limit` pick from a suite; cases that are given are taken as they are. A suite's benign
    twins are asked too and reported under the slice `kind: benign`. With a `store` every measurement is
    recorded; with a `cache` nothing is asked twice. UsageError without a scorer for plain cases.

    What is not started when `seconds`, or a `budget` shared with other evaluations, are spent is Unscored("budget").

    With `stop_when` asking ends when that bound is settled, and all intervals hold at every look (`early.py`). Rates by
    a judge whose error `error_of` knows are corrected for it; that of the shipped rules is known.
    """
    selection = {"languages": languages, "split": split, "limit": limit}
    plan = _plan(what, scorer, name, {k: v for k, v in selection.items() if v is not None})
    plan = replace(plan, error_of=error_of)
    stops = plan.stop if stop is None else tuple(stop)
    options: dict[str, Any] = {
        "log_dir": log_dir,
        "max_new_tokens": max_new_tokens or plan.max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "stop": stops,
        "cache": cache,
        "budget": budget or Budget(seconds=seconds),
    }
    stopping = None
    if stop_when is None:
        result = run_cases(model, plan.cases, plan.scorer, name=plan.name, on_progress=on_progress, **options)
    else:
        result, stopping = _ask_until(model, plan, stop_when, level, on_progress, options)
        plan = replace(plan, cases=tuple(c for c in plan.cases if c.id in result.outcomes))
    return summarise(
        plan,
        result,
        subject=model.fingerprint,
        subject_name=subject_name or model.name,
        level=level,
        run=run,
        store=store,
        settings={
            "max_new_tokens": max_new_tokens or plan.max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            **({"dtype": dtype} if (dtype := dtype_of(model)) else {}),
            **({"stop": list(stops)} if stops else {}),
            **({"stop_when": str(stop_when)} if stop_when else {}),
        },
        stopping=stopping,
    )


def _ask_until(
    model: Model,
    plan: EvaluationPlan,
    bound: Bound,
    level: float,
    on_progress: OnProgress | None,
    options: Mapping[str, Any],
) -> tuple[RunResult, Stopping]:
    if bound.metric not in (None, plan.metric):
        raise UsageError(f"{plan.name} does not measure {bound.metric}", expected=plan.metric)
    asked, began = 0, time.monotonic()

    def progress(n: int, total: int, spent: float) -> None:
        if on_progress is not None:
            on_progress(asked + n, len(plan.cases), time.monotonic() - began)

    def ask(cases: Sequence[Case], look: int) -> RunResult:
        nonlocal asked
        name = plan.name if look == 1 else f"{plan.name}-look-{look}"
        result = run_cases(model, cases, plan.scorer, name=name, on_progress=progress, **options)
        asked += len(cases)
        return result

    return ask_until(
        ask,
        plan.cases,
        replace(bound, metric=plan.metric),
        counts=lambda case: case.id not in plan.benign,
        name=plan.name,
        seed=int(options["seed"]),
        level=level,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """Cases with the scorer and the metric that they are measured by."""

    name: str
    cases: tuple[Case, ...]
    benign: frozenset[str]
    scorer: Scorer
    metric: str
    safer: Safer
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    error_of: ErrorOf | None = None


def _plan(
    what: Suite | Sequence[Case], scorer: Scorer | str | None, name: str | None, selection: Mapping[str, Any]
) -> EvaluationPlan:
    if isinstance(what, Suite):
        benign = what.cases(**selection, benign=True)
        return EvaluationPlan(
            name=name or what.name,
            cases=(*what.cases(**selection), *benign),
            benign=frozenset(c.id for c in benign),
            scorer=_scorer(scorer or what.scorer),
            metric=what.metric,
            safer=what.safer,
            max_new_tokens=what.max_new_tokens,
            stop=what.stop,
        )
    if scorer is None:
        raise UsageError(
            "cases of your own need a scorer",
            expected=f"one of: {', '.join(registry('scorer').names())}",
            next_step="--scorer refusal judges answers to harmful requests; --scorer choice is multiple choice",
        )
    if selection:
        raise UsageError("languages, split and limit select from a suite", got=", ".join(selection))
    judge = _scorer(scorer)
    metric, safer = metric_of(judge)
    return EvaluationPlan(
        name=name or "cases", cases=tuple(what), benign=frozenset(), scorer=judge, metric=metric, safer=safer
    )


def _scorer(scorer: Scorer | str) -> Scorer:
    return scorer_named(scorer) if isinstance(scorer, str) else scorer


def metric_of(scorer: Scorer) -> tuple[str, Safer]:
    """What a scorer's rate is called and which direction is safer: its module's METRIC and SAFER."""
    if scorer.name not in registry("scorer").names():
        return scorer.name, "neither"
    module = registry("scorer").module(scorer.name)
    return getattr(module, "METRIC", scorer.name), getattr(module, "SAFER", "neither")


def summarise(
    plan: EvaluationPlan,
    result: RunResult,
    *,
    subject: str,
    subject_name: str,
    level: float = 0.95,
    run: str = "",
    store: Ledger | None = None,
    settings: Mapping[str, Any] | None = None,
    stopping: Stopping | None = None,
) -> EvaluationResult:
    """Outcomes as measurements: raw by metric and slice, then corrected where the judge's error is known (not where
    asking was allowed to stop early: the correction's interval is for one look)."""
    stopped = {"stopping": plain(stopping)} if stopping else {}
    made: list[Measurement] = []
    for metric, safer, pick in _metrics(plan):
        for slice, cases in _slices(plan, metric):
            made.append(
                measure_rate(
                    [pick(result.outcomes[c.id]) for c in cases],
                    metric=metric,
                    subject=subject,
                    subject_name=subject_name,
                    safer=safer,
                    clusters=[c.behaviour or c.id for c in cases],
                    level=level,
                    slice=slice,
                    dataset=digest(cases),
                    code=code_digest(),
                    judge=plan.scorer.digest,
                    run=run,
                    metadata={
                        "suite": plan.name,
                        "settings": dict(settings or {}),
                        "log": result.log_path.name,
                        **stopped,
                    },
                    anytime=stopping is not None,
                )
            )
    kept = [_recorded(m, store) for m in made]
    return EvaluationResult(
        name=plan.name,
        measurements=tuple(kept),
        corrected=() if stopping else tuple(_recorded(m, store) for m in _corrections(plan, kept)),
        cases=plan.cases,
        outcomes=result.outcomes,
        completions=result.completions,
        log_path=result.log_path,
        seconds=result.seconds,
        stopped_early=result.stopped_early,
        earlier_logs=result.earlier_logs,
        stopping=stopping,
    )


def _metrics(plan: EvaluationPlan) -> list[tuple[str, Safer, Pick]]:
    """Metric, safer direction, and how an outcome of the run becomes an outcome of that metric."""
    metrics: list[tuple[str, Safer, Pick]] = [(plan.metric, plan.safer, lambda outcome: outcome)]
    if plan.scorer.name in ("refusal", "over_refusal"):
        own = {"refusal": "compliance", "over_refusal": "refusal"}[plan.scorer.name]
        for label in ANSWER_LABELS:
            if label != own:
                metrics.append((LABEL_METRICS[label], "neither", _labelled(label)))
    if plan.scorer.name == "canary":
        metrics.append(("injection_utility", "higher", _useful))
    if plan.scorer.name == "choice":
        metrics.append((f"{plan.metric}_sum", plan.safer, _from_metadata("acc")))
    return metrics


def _labelled(label: str) -> Pick:
    def pick(outcome: Outcome) -> Outcome:
        return replace(outcome, value=float(outcome.label == label)) if isinstance(outcome, Scored) else outcome

    return pick


def _from_metadata(key: str) -> Pick:
    def pick(outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Scored):
            return outcome
        value = outcome.metadata.get(key)
        if value is None:
            return Unscored(reason=f"no {key} for this case", judge=outcome.judge)
        return replace(outcome, value=float(value))

    return pick


_useful = _from_metadata("utility")


def _slices(plan: EvaluationPlan, metric: str) -> list[tuple[dict[str, str], list[Case]]]:
    """All cases, then those of each language, category and surface. Benign twins count for utility alone.

    A rate of labels is measured on harmful and on harmless requests alike, so its slices name the suite.
    """
    cases = [c for c in plan.cases if c.id not in plan.benign]
    suite = next((c.suite for c in cases if c.suite), plan.name)
    common = {"suite": suite} if metric in LABEL_METRICS.values() else {}
    slices: list[tuple[dict[str, str], list[Case]]] = [(common, cases)]
    for dimension in DIMENSIONS:
        groups: dict[str, list[Case]] = {}
        for case in cases:
            if value := str(getattr(case, dimension, "") or case.metadata.get(dimension, "")):
                groups.setdefault(value, []).append(case)
        slices += [({**common, dimension: value}, group) for value, group in sorted(groups.items())]
    if plan.benign and metric == "injection_utility":
        slices.append(({"kind": "benign"}, [c for c in plan.cases if c.id in plan.benign]))
    return slices


def _corrections(plan: EvaluationPlan, raw: Sequence[Measurement]) -> list[Measurement]:
    """Corrected rates by language: the judge's error is measured per language and not exchangeable between them. The
    mean of a graded judge is no rate of an event and stays as it is."""
    if not getattr(plan.scorer, "event", "") or getattr(plan.scorer, "graded", False):
        return []
    by_language = [m for m in raw if m.metric == plan.metric and set(m.slice) == {"language"} and m.measured]
    return [made for m in by_language if (made := _corrected(plan, m, m.slice["language"])) is not None]


def _corrected(plan: EvaluationPlan, raw: Measurement, language: str) -> Measurement | None:
    if plan.scorer.name in ("refusal", "over_refusal"):
        counts = confusion(plan.scorer.event, language)  # type: ignore[attr-defined]
        return None if counts is None else correct_rate(raw, counts)
    known = plan.error_of(plan.scorer, language) if plan.error_of else None
    return None if known is None else known.noted(correct_rate(raw, known.counts))


def _recorded(measurement: Measurement, store: Ledger | None) -> Measurement:
    if store is not None:
        return store.add_measurement(measurement)
    return replace(measurement, id=f"m-{digest(measurement)[:16]}")


@cache
def code_digest() -> str:
    """SHA-256 over the source of every layer that a number passes through."""
    root = Path(__file__).parent.parent
    files = sorted(p for layer in LAYERS for p in (root / layer).rglob("*.py"))
    sources = {str(p.relative_to(root)): digest_bytes(p.read_bytes()) for p in files}
    return digest(sources)
