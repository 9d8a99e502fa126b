"""The interpret step: where the model represents harm, how well that separates held-out prompts, and what that says of
each finding."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fivefold.align.data.sources import everyday as everyday_cases
from fivefold.evaluate.suites import suite
from fivefold.guard.augment import training_extras
from fivefold.interpret.cause import CausalCheck, Cause, causal_check, cause_of, locate
from fivefold.interpret.methods.layer_sweep import SweepResult, SweepRow, layer_sweep
from fivefold.runtime.protocol import Capability, Cost, require
from fivefold.thread.context import Context
from fivefold.thread.findings import findings_of
from fivefold.thread.plan import InterpretPlan, Plan
from fivefold.thread.steps import Result, Step
from fivefold.types import Case

CODE = ("runtime", "interpret", "stats", "evaluate")
EVERYDAY = 80
CAUSAL = 16
READ = 2 / 3
"""Share of a full forward that reading the first two thirds of the layers costs."""


def run_interpret(ctx: Context) -> Result:
    """Sweep the layers, keep the best probe and direction as artifacts, and place every finding on them."""
    part = ctx.plan.interpret
    assert part is not None
    began = time.monotonic()
    require(ctx.model("base"), Capability.ACTIVATIONS, for_="looking inside the model")
    model = ctx.whitebox("base")
    harmful, benign = prompts_of(part, harmful=True), prompts_of(part, harmful=False)
    ctx.progress.advance(0, 2, "reading activations")
    target = ctx.plan.guard.target_fpr if ctx.plan.guard else 0.05
    sweep = layer_sweep(
        model,
        harmful,
        benign,
        position=part.position,
        languages=part.languages,
        target_fpr=target,
        extra=extras(part, harmful, benign),
    )
    ctx.progress.advance(1, 2, "placing the findings")
    causal = causal_check(model, sweep.direction, causal_cases(harmful, part))
    kept = {
        name: ctx.store.put_artifact(
            artifact.to_bytes(), name=f"{name}.safetensors", media_type="application/x-safetensors", run=ctx.run
        ).digest
        for name, artifact in (("probe", sweep.probe), ("direction", sweep.direction))
    }
    measured = [
        ctx.store.add_measurement(type(m)(**{**vars(m), "subject_name": "base", "run": ctx.run}))
        for m in sweep.measurements()
    ]
    causes = place_findings(ctx, sweep, causal, measured[0].id)
    ctx.progress.advance(2, 2)
    return {
        "artifacts": kept,
        "layer": sweep.probe.layer,
        "auroc": {k: v.estimate for k, v in sweep.probe.auroc.items()},
        "baseline": {k: v.estimate for k, v in sweep.baseline.test.items()},
        "measurements": [m.id for m in measured],
        "causal": causal.sentence,
        "report": report_of(sweep, [*harmful, *benign], causes, part),
        "seconds": time.monotonic() - began,
    }


def prompts_of(part: InterpretPlan, *, harmful: bool) -> list[Case]:
    """The prompts of one kind in all splits: training, choosing the layer, and testing are apart by behaviour."""
    chosen = suite(part.harmful if harmful else part.benign)
    return list(chosen.cases(languages=part.languages, limit=part.limit))


def extras(part: InterpretPlan, harmful: list[Case], benign: list[Case]) -> tuple[list[Case], list[Case]]:
    """More prompts that the final probe learns from, in the languages of `framed`: framed variants, the guard's training
    requests, everyday ones."""
    sides = [[c for c in side if c.language in part.framed] for side in (harmful, benign)]
    if not part.framed:
        return [], []
    everyday = [c for c in everyday_cases() if c.language in part.framed]
    positive, negative = training_extras(*sides, everyday=everyday[:EVERYDAY])
    return [c for c in positive if c.language in part.framed], [c for c in negative if c.language in part.framed]


def causal_cases(harmful: list[Case], part: InterpretPlan) -> list[Case]:
    """A few dev prompts in the first language on which the direction is moved."""
    return [c for c in harmful if c.split == "dev" and c.language == part.languages[0]][:CAUSAL]


def place_findings(ctx: Context, sweep: SweepResult, causal: CausalCheck, evidence: str) -> dict[str, Cause]:
    """Where each finding's stored prompts lie on the probe; written into the finding as its cause."""
    findings = findings_of(ctx)
    cases = [
        Case(id=f"{f.id}/{i}", messages=r.messages, language=f.language, category=f.category)
        for f in findings
        for i, r in enumerate(f.reproductions)
    ]
    located = iter(locate(ctx.whitebox("base"), sweep.probe, cases))
    causes = {}
    for finding in findings:
        causes[finding.id] = cause_of(sweep.probe, [next(located) for _ in finding.reproductions], causal=causal)
        ctx.store.update_finding(
            finding.id, evidence=evidence, reason="placed on the probe", run=ctx.run, cause=causes[finding.id].to_json()
        )
    return causes


def report_of(
    sweep: SweepResult, cases: list[Case], causes: Mapping[str, Cause], part: InterpretPlan
) -> dict[str, Any]:
    """The probe section of the report."""
    harmful = {c.id for c in cases if c.suite == part.harmful}
    scores = [
        {"score": sweep.scores[c.id], "group": "harmful" if c.id in harmful else "benign", "language": c.language}
        for c in cases
        if c.split == "test" and c.id in sweep.scores
    ]
    scores += [
        {"score": place.score, "group": "finding", "language": place.language}
        for cause in causes.values()
        for place in cause.locations
    ]
    return {
        "concept": sweep.concept,
        "position": str(sweep.probe.position),
        "best_layer": sweep.probe.layer,
        "rows": [_row(r) for r in sweep.rows if r.layer is not None and "all" in r.test],
        "text_baseline": _separation(sweep.baseline),
        "scores": scores,
        "threshold": {k: t.value for k, t in sweep.probe.thresholds.items()},
    }


def _row(row: SweepRow) -> dict[str, Any]:
    return {"layer": row.layer, "method": row.method, **_separation(row)}


def _separation(row: SweepRow) -> dict[str, Any]:
    found = row.test["all"]
    return {"auroc": found.estimate, "low": found.low, "high": found.high}


def describe(result: Result) -> str:
    """Layer and AUROC beside the text baseline."""
    pairs = [f"{k} {v:.2f} (text {result['baseline'].get(k, float('nan')):.2f})" for k, v in result["auroc"].items()]
    return f"layer {result['layer']}, AUROC {', '.join(pairs)}"


def interpret_cost(plan: Plan) -> Cost:
    """Prompt tokens of two kinds of prompts through the lower layers."""
    part = plan.interpret
    n = 2 * len(prompts_of(part, harmful=True)) if part else 0
    return Cost(requests=n, prompt_tokens=round(n * 60 * READ))


INTERPRET = Step(
    name="interpret",
    title="Find where the model represents harm",
    needs=("scan", "redteam"),
    code=CODE,
    params=lambda plan: plan.interpret.model_dump(mode="json") if plan.interpret else None,
    cost=interpret_cost,
    run=run_interpret,
    summary=describe,
)
