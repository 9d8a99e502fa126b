"""Run a plan: every step in order, each result kept under its key, so that what has run is not run again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from fivefold.runtime.protocol import Cost
from fivefold.thread.context import Context
from fivefold.thread.plan import Plan, scaled
from fivefold.thread.steps import Progress, Quiet, Rates, Result, Step, step_key
from fivefold.types import digest


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run ends with: the decision and the results of every step by name."""

    run: str
    plan: Plan
    results: dict[str, Result]
    reused: tuple[str, ...]
    seconds: float
    step_seconds: dict[str, float]

    @property
    def decision(self) -> dict[str, Any]:
        """The signed decision's body."""
        return dict(self.results["decide"]["decision"])


def fit(plan: Plan, steps: list[Step], rates: Rates) -> Plan:
    """The plan, with fewer cases where its own budget is shorter than its estimate."""
    if plan.minutes is None:
        return plan
    estimate = total_cost(plan, steps, rates).minutes
    if estimate <= plan.minutes:
        return plan
    smaller, share = plan, 1.0
    while total_cost(smaller, steps, rates).minutes > plan.minutes * 0.9 and share > 0.05:
        share *= 0.85
        smaller = scaled(plan, share)
    return smaller


def costs(plan: Plan, steps: list[Step], rates: Rates) -> list[tuple[str, str, Cost]]:
    """(name, title, cost) of every step, minutes filled in from `rates` where a step gives only tokens."""
    rows = []
    for step in steps:
        cost = step.cost(plan)
        minutes = cost.minutes or rates.minutes(cost)
        rows.append((step.name, step.title, Cost(**{**cost.__dict__, "minutes": minutes})))
    return rows


def total_cost(plan: Plan, steps: list[Step], rates: Rates) -> Cost:
    """The whole plan's cost."""
    total = Cost()
    for _, _, cost in costs(plan, steps, rates):
        total = total + cost
    return total


def run_id(plan: Plan, subject: str) -> str:
    """The same plan on the same model is the same run: `name-` and eight hex digits."""
    return f"{plan.name}-{digest({'plan': plan.digest, 'subject': subject})[:8]}"


def run_steps(ctx: Context, steps: list[Step], progress: Progress | None = None) -> RunResult:
    """Run `steps` in order, reusing whatever the store already holds for exactly these inputs."""
    watcher = progress or Quiet()
    started = time.monotonic()
    keys: dict[str, str] = {}
    reused: list[str] = []
    took: dict[str, float] = {}
    for step in steps:
        keys[step.name] = step_key(step, ctx.plan, ctx.subject, keys)
        began = time.monotonic()
        watcher.start(step.name, step.title)
        known = ctx.store.step(keys[step.name])
        if known is None:
            result = step.run(ctx)
            ctx.store.finish_step(keys[step.name], step.name, result, run=ctx.run)
        else:
            result = dict(known.body["result"])
            reused.append(step.name)
        ctx.results[step.name] = result
        took[step.name] = time.monotonic() - began
        watcher.finish(step.name, took[step.name], step.summary(result), reused=known is not None)
    return RunResult(
        run=ctx.run,
        plan=ctx.plan,
        results=ctx.results,
        reused=tuple(reused),
        seconds=time.monotonic() - started,
        step_seconds=took,
    )
