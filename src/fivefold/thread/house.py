"""The order of steps, and the two calls that everything outside uses: `prepare` a plan, `run_thread`."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivefold.evidence import Store
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Cost, Model
from fivefold.thread.attack import REDTEAM, reattack_step, replay_step
from fivefold.thread.context import Context
from fivefold.thread.inside import INTERPRET
from fivefold.thread.judge import decide_step
from fivefold.thread.measure import evaluate_step
from fivefold.thread.mend import GUARD, PATCH
from fivefold.thread.papers import DOCUMENTS, lay_out
from fivefold.thread.plan import Plan, parse_minutes, quick, read_plan
from fivefold.thread.rates import known_rates, learn_rates
from fivefold.thread.report_data import report_data
from fivefold.thread.run import RunResult, costs, fit, run_id, run_steps
from fivefold.thread.scan import SCAN
from fivefold.thread.steps import Progress, Rates, Result, Step
from fivefold.types import plain


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A plan that has been read, checked and fitted to its budget."""

    plan: Plan
    steps: tuple[Step, ...]
    costs: list[tuple[str, str, Cost]]
    rates: Rates


@dataclass(frozen=True, kw_only=True)
class ThreadResult:
    """What `fivefold run` ends with."""

    run: str
    decision: Mapping[str, Any]
    results: Mapping[str, Result]
    report_data: Mapping[str, Any]
    folder: Path
    documents: Mapping[str, str]
    measurements: list[Any]
    findings: list[Any]
    reused: tuple[str, ...]
    seconds: float

    def to_json(self, report: str) -> dict[str, Any]:
        """The object of DESIGN §3; `report` is where the report was written."""
        return {
            "run": self.run,
            "decision": self.decision["decision"],
            "subject": self.decision["subject"],
            "subject_name": self.decision["subject_name"],
            "reasons": list(self.decision["reasons"]),
            "next_measurement": self.decision["next_measurement"],
            "gates": self.decision["gates"],
            "versions": self.results["decide"]["versions"],
            "measurements": [plain(m) for m in self.measurements],
            "findings": [plain(f) for f in self.findings],
            "report": report,
            "documents": dict(self.documents),
            "reused": list(self.reused),
            "seconds": round(self.seconds, 1),
        }


def steps_of(plan: Plan) -> tuple[Step, ...]:
    """The steps that a plan asks for, in order."""
    steps = [SCAN, evaluate_step("base", needs=("scan",))]
    made: list[str] = []
    if plan.redteam:
        steps.append(REDTEAM)
    if plan.interpret:
        steps.append(INTERPRET)
    if plan.patch:
        steps.append(PATCH)
        made.append("patched")
    if plan.guard:
        steps.append(GUARD)
        made.append("guarded")
    if plan.patch and plan.guard:
        made.append("patched+guarded")
    mending = tuple(s.name for s in steps if s.name in ("patch", "guard"))
    steps += [evaluate_step(version, needs=("evaluate base", *mending)) for version in made]
    if plan.redteam and made:
        steps.append(replay_step(("redteam", *mending)))
    if plan.reattack:
        steps.append(reattack_step(("redteam", *mending)))
    steps.append(decide_step(tuple(s.name for s in steps)))
    steps.append(DOCUMENTS)
    return tuple(steps)


def prepare(path: Path, *, budget: str | None = None, quick: bool = False) -> Ready:
    """Read a plan, make it quick or fit it to a budget, and say what it will cost. Nothing is loaded or run."""
    plan = read_plan(path)
    if quick:
        plan = _quick(plan)
    if budget:
        parse_minutes(budget)
        plan = plan.model_copy(update={"budget": budget})
    return ready(plan)


_quick = quick


def ready(plan: Plan) -> Ready:
    """A plan fitted to its budget, with its steps and costs."""
    rates = known_rates()
    steps = steps_of(plan)
    fitted = fit(plan, list(steps), rates)
    return Ready(plan=fitted, steps=steps, costs=costs(fitted, list(steps), rates), rates=rates)


def run_thread(
    ready: Ready, progress: Progress, *, store: Store | None = None, model: Model | None = None
) -> ThreadResult:
    """Run a prepared plan to its decision and its report. What the store already holds is not done again."""
    opened = store or Store.open()
    try:
        base = model or load(ready.plan.model)
        minutes = ready.plan.minutes
        ctx = Context(
            plan=ready.plan,
            store=opened,
            run=run_id(ready.plan, base.fingerprint),
            subject=base.fingerprint,
            progress=progress,
            deadline=time.monotonic() + minutes * 60 if minutes else None,
            base=base,
        )
        done = run_steps(ctx, list(ready.steps), progress)
        learn_rates(ctx)
        return _finish(ctx, done)
    finally:
        if store is None:
            opened.close()


def _finish(ctx: Context, done: RunResult) -> ThreadResult:
    data = report_data(ctx, done, now=dt.datetime.now(dt.UTC))
    return ThreadResult(
        run=ctx.run,
        decision=done.decision,
        results=done.results,
        report_data=data,
        folder=ctx.folder,
        documents=lay_out(ctx.store, ctx.folder, done.results["documents"]["documents"]),
        measurements=ctx.store.measurements(run=ctx.run),
        findings=data["findings"],
        reused=done.reused,
        seconds=done.seconds,
    )
