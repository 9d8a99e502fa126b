"""Evaluation steps: every suite of the plan on one model version, and the paired comparison with the base."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fivefold.evaluate.run import EvaluationResult, evaluate
from fivefold.evaluate.suites import Suite, suite
from fivefold.guard.stack import GuardedModel
from fivefold.runtime.protocol import Cost, Request
from fivefold.score import scorer
from fivefold.score.protocol import Scorer
from fivefold.stats import measure_change
from fivefold.thread.context import Context
from fivefold.thread.judged import judge_rows
from fivefold.thread.plan import Plan, SuiteRun
from fivefold.thread.steps import Result, Step, code_digest
from fivefold.types import Case, Completion, Measurement, Outcome, Scored, Usage, digest, outcome_from_json, plain

CODE = ("runtime", "score", "engine", "evaluate", "stats")
SAMPLE_SECONDS = 0.012
PROMPT_TOKENS = {"core-harms": 35, "core-benign": 35, "core-injection": 170, "core-capability": 90}


def run_evaluate(ctx: Context, version: str) -> Result:
    """Measure one version on every suite; compare with the base, case by case."""
    began = time.monotonic()
    total = sum(len(cases_of(s)) for s in ctx.plan.evaluate)
    done = 0
    results: dict[str, EvaluationResult] = {}
    for part in ctx.plan.evaluate:
        results[part.suite] = _evaluate_suite(ctx, version, part, done, total)
        done += len(results[part.suite].cases)
    outcomes = {name: {k: plain(o) for k, o in r.outcomes.items()} for name, r in results.items()}
    kept = ctx.store.put_artifact(
        json.dumps(_transcripts(results), ensure_ascii=False).encode(),
        name=f"transcripts-{version}.json",
        media_type="application/json",
        run=ctx.run,
    )
    comparisons = _compare_with_base(ctx, version, results) if version != "base" else []
    usage = sum((c.usage for r in results.values() for c in r.completions.values()), Usage())
    return {
        "measurements": [m.id for r in results.values() for m in (*r.measurements, *r.corrected)],
        "outcomes": outcomes,
        "transcripts": kept.digest,
        "comparisons": comparisons,
        "logs": [str(r.log_path) for r in results.values()],
        "judge": judge_rows() if version == "base" else [],
        "requests": total,
        "tokens": usage.prompt - usage.shared + usage.completion,
        "seconds": time.monotonic() - began,
        "headline": _headline(results),
        "limits": [f"{version}: {n} was cut short by the budget" for n, r in results.items() if r.stopped_early],
    }


def cases_of(part: SuiteRun) -> tuple[Case, ...]:
    """The cases of one suite that the plan asks for, its harmless twins included."""
    chosen: Suite = suite(part.suite)
    return (*chosen.cases(**selection(part)), *chosen.cases(**selection(part), benign=True))


def selection(part: SuiteRun) -> dict[str, Any]:
    """A suite run's languages, split and limit, as `Suite.cases` takes them."""
    return {"languages": part.languages, "split": part.split, "limit": part.limit}


def _evaluate_suite(ctx: Context, version: str, part: SuiteRun, done: int, total: int) -> EvaluationResult:
    return evaluate(
        ctx.model(version),
        suite(part.suite),
        scorer=_scorer_behind_guards(ctx, version, part),
        log_dir=ctx.folder / "logs",
        name=f"{part.suite}-{version}",
        subject_name=version,
        max_new_tokens=part.max_new_tokens,
        seed=ctx.plan.seed,
        stop=part.stop or None,
        run=ctx.run,
        store=ctx.store,
        seconds=ctx.remaining(),
        on_progress=lambda n, _total, _seconds: ctx.progress.advance(done + n, total, part.suite),
        **selection(part),
    )


@dataclass(frozen=True, kw_only=True)
class BehindGuards:
    """A likelihood scorer for a guarded model: an item whose prompt the guards block is not answered, so it is
    wrong."""

    inner: Scorer
    blocked: frozenset[str]
    guards: str

    @property
    def name(self) -> str:
        """The inner scorer's name."""
        return self.inner.name

    @property
    def digest(self) -> str:
        """SHA-256 hex over the inner scorer and the guards."""
        return digest({"scorer": self.inner.digest, "guards": self.guards})

    def __call__(self, case: Case, completion: Completion) -> Outcome:
        """The inner outcome, or 0 for a blocked item."""
        outcome = self.inner(case, completion)
        if case.id in self.blocked and isinstance(outcome, Scored):
            kept = {**outcome.metadata, "acc": 0.0}
            return replace(outcome, value=0.0, label="blocked", judge=self.digest, metadata=kept)
        return outcome


def _scorer_behind_guards(ctx: Context, version: str, part: SuiteRun) -> Scorer | None:
    model = ctx.model(version)
    chosen = suite(part.suite)
    if not isinstance(model, GuardedModel) or chosen.scorer != "choice":
        return None
    cases = cases_of(part)
    verdicts = model.check_inputs([Request(messages=c.messages) for c in cases])
    blocked = frozenset(c.id for c, v in zip(cases, verdicts, strict=True) if v.action == "block")
    return BehindGuards(inner=scorer(chosen.scorer), blocked=blocked, guards=model.stack.fingerprint)


def _compare_with_base(ctx: Context, version: str, results: Mapping[str, EvaluationResult]) -> list[dict[str, Any]]:
    """Paired differences per suite and language, with the cases that flipped each way."""
    rows = []
    before_all = ctx.results["evaluate base"]["outcomes"]
    for name, result in results.items():
        chosen = suite(name)
        before = {k: outcome_from_json(o) for k, o in before_all[name].items()}
        languages = sorted({c.language for c in result.cases})
        for language in languages:
            cases = [c for c in result.cases if c.language == language and not _is_twin(chosen, c)]
            ids = [c.id for c in cases]
            change = _change(ctx, version, chosen, before, result.outcomes, ids, language)
            rows.append(_comparison(change, chosen, version, language))
        if chosen.metric == "capability_accuracy":
            ids = [c.id for c in result.cases]
            _change(ctx, version, chosen, before, result.outcomes, ids, None)
    return rows


def _is_twin(chosen: Suite, case: Case) -> bool:
    return any(case.id == twin.id for twin in chosen.benign)


def _change(
    ctx: Context,
    version: str,
    chosen: Suite,
    before: Mapping[str, Outcome],
    after: Mapping[str, Outcome],
    ids: list[str],
    language: str | None,
) -> Measurement:
    metric = "capability_change" if chosen.metric == "capability_accuracy" else f"{chosen.metric}_change"
    change = measure_change(
        {i: before[i] for i in ids if i in before},
        {i: after[i] for i in ids},
        metric=metric,
        subject=ctx.model(version).fingerprint,
        subject_name=version,
        safer=chosen.safer,
        slice={"language": language} if language else {},
        dataset=digest(sorted(ids)),
        code=code_digest(CODE),
        run=ctx.run,
    )
    return ctx.store.add_measurement(change)


def _comparison(change: Measurement, chosen: Suite, version: str, language: str) -> dict[str, Any]:
    better = "rose" if chosen.safer == "higher" else "fell"
    worse = "fell" if better == "rose" else "rose"
    return {
        "suite": chosen.name,
        "metric": chosen.metric,
        "language": language,
        "a": "base",
        "b": version,
        "n": change.n_scored,
        "difference": change.estimate,
        "low": change.low,
        "high": change.high,
        "p_value": change.metadata.get("p_value"),
        "to_safer": change.metadata.get(better, []),
        "to_worse": change.metadata.get(worse, []),
        "record": change.id,
    }


def _transcripts(results: Mapping[str, EvaluationResult]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, result in results.items():
        for case in result.cases:
            completion, outcome = result.completions.get(case.id), result.outcomes[case.id]
            if case.choices or completion is None:
                continue
            rows[case.id] = {
                "prompt": "\n\n".join(f"[{m.role}] {m.content}" for m in case.messages)
                if len(case.messages) > 1
                else case.prompt,
                "category": case.category,
                "language": case.language,
                "suite": name,
                "answer": {
                    "text": completion.text,
                    "label": getattr(outcome, "label", outcome.kind),
                    "stop_reason": completion.stop_reason,
                },
            }
    return rows


def _headline(results: Mapping[str, EvaluationResult]) -> dict[str, float | None]:
    heads = {}
    for name, result in results.items():
        metric = suite(name).metric
        found = result.find(metric, language="en") or result.find(metric)
        heads[metric] = found.estimate if found else None
    return heads


def describe(result: Result) -> str:
    """The English headline rates in a few words; "not measured" where nothing was scored."""
    words = {k: "not measured" if v is None else f"{v:.0%}" for k, v in result["headline"].items()}
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in words.items())


def evaluation_cost(plan: Plan, version: str) -> Cost:
    """Requests and tokens of one version. A guarded version asks its model nothing new: its answers are remembered."""
    total = Cost()
    guarded = "guarded" in version
    for part in plan.evaluate:
        cases = cases_of(part)
        generates = [c for c in cases if not c.choices]
        size = PROMPT_TOKENS.get(part.suite, 120)
        total += Cost(
            requests=len(cases),
            prompt_tokens=len(cases) * size if not guarded else len(generates) * size // 2,
            completion_tokens=0 if guarded else sum(part.max_new_tokens for _ in generates),
        )
    return total


def evaluate_step(version: str, needs: tuple[str, ...]) -> Step:
    """The step that measures one version."""
    return Step(
        name=f"evaluate {version}",
        title=f"Evaluate {version}",
        needs=needs,
        code=CODE,
        params=lambda plan: [s.model_dump(mode="json") for s in plan.evaluate],
        cost=lambda plan: evaluation_cost(plan, version),
        run=lambda ctx: run_evaluate(ctx, version),
        summary=describe,
    )
