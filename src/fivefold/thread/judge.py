"""The govern step: every version against the gate, a signed decision, and what it rests on by hash."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from fivefold.govern.decide import Candidate, decide
from fivefold.govern.gate import apply_gate, read_gate
from fivefold.thread.context import Context
from fivefold.thread.findings import settle_findings
from fivefold.thread.plan import Plan
from fivefold.thread.steps import Result, Step
from fivefold.types import Measurement, digest, plain


def run_decide(ctx: Context) -> Result:
    """Apply the gate to every version, decide, sign, and move the findings to the state that the evidence allows."""
    gate = read_gate(ctx.plan.gate)
    measurements = ctx.store.measurements(run=ctx.run)
    now = dt.datetime.now(dt.UTC)
    candidates = [
        Candidate(
            name=version,
            fingerprint=ctx.model(version).fingerprint,
            guarded="guarded" in version,
            gates=tuple(
                apply_gate(
                    gate,
                    measurements,
                    subject=ctx.model(version).fingerprint,
                    subject_name=version,
                    today=now.date(),
                )
            ),
        )
        for version in ctx.available()
    ]
    decision = decide(
        candidates,
        gate=gate,
        owner=ctx.plan.owner,
        run=ctx.run,
        decided_at=now.isoformat(timespec="seconds"),
        evidence=evidence_of(ctx, measurements),
    )
    record = ctx.store.append("decision", plain(decision), run=ctx.run, signed=True)  # type: ignore[arg-type]
    settle_findings(ctx, decision, record)
    return {
        "decision": plain(decision),
        "record": record.id,
        "signature": {"key_id": ctx.store.signer.keyid, "record": record.id},
        "gate_file": gate.model_dump(mode="json"),
        "versions": versions_of(ctx),
    }


def versions_of(ctx: Context) -> list[dict[str, str]]:
    """Name, fingerprint, parent and kind of every version of this run."""
    base = ctx.model("base").fingerprint
    parents = {"patched": base, "guarded": base}
    if "patched+guarded" in ctx.available():
        parents["patched+guarded"] = ctx.model("patched").fingerprint
    return [
        {
            "name": version,
            "fingerprint": ctx.model(version).fingerprint,
            "parent": parents.get(version, ""),
            "kind": "base" if version == "base" else "guarded" if "guarded" in version else "patched",
        }
        for version in ctx.available()
    ]


def evidence_of(ctx: Context, measurements: Sequence[Measurement]) -> dict[str, str]:
    """The closure: plan, model versions, data, judges and every measurement, each by its digest."""
    closure = {"plan": ctx.plan.digest}
    for version in ctx.available():
        closure[f"model/{version}"] = ctx.model(version).fingerprint
    for m in measurements:
        if m.dataset:
            closure[f"data/{m.metric}/{'/'.join(m.slice.values()) or 'all'}"] = m.dataset
        if m.judge:
            closure[f"judge/{m.metric}"] = m.judge
    closure["measurements"] = digest(sorted(m.id for m in measurements))
    return closure


def describe(result: Result) -> str:
    """The decision in a few words."""
    decision = result["decision"]
    return f"{decision['decision'].replace('_', ' ')}: {decision['subject_name']}"


def _params(plan: Plan) -> object:
    return {"gate": read_gate(plan.gate).model_dump(mode="json"), "owner": plan.owner}


def decide_step(needs: tuple[str, ...]) -> Step:
    """The step, after everything that it weighs."""
    return Step(
        name="decide",
        title="Decide at the gate and sign",
        needs=needs,
        code=("govern", "stats", "evidence"),
        params=_params,
        run=run_decide,
        summary=describe,
    )
