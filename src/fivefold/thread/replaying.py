"""`fivefold findings replay`: the stored cases of findings on any version; a closed finding that reproduces
regresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fivefold.errors import UnknownNameError, UsageError
from fivefold.evidence import Store
from fivefold.redteam.replay import Replayed, replay
from fivefold.runtime.cached import CachedModel
from fivefold.runtime.load import load
from fivefold.stats import measure_rate
from fivefold.thread.attack import CODE, judge_of_answers
from fivefold.thread.steps import code_digest
from fivefold.types import Errored, ModelVersion, Scored, digest


def replay_findings(spec: str, *, ids: Sequence[str] | None, limit: int | None = None) -> dict[str, Any]:
    """Ask the findings' cases of the model that `spec` names, and record what was seen."""
    model = load(spec)
    with Store.open() as store:
        findings = {f.id: f for f in store.findings()}
        for id in ids or ():
            if id not in findings:
                raise UnknownNameError("finding", id, findings, next_step="fivefold findings list")
        chosen = [findings[i] for i in ids or findings][:limit]
        if not chosen:
            raise UsageError("there are no findings to replay", next_step="fivefold redteam finds some")
        judge = judge_of_answers()
        run = f"replay-{digest([spec, sorted(f.id for f in chosen)])[:8]}"
        if model.fingerprint not in {v.id for v in store.versions()}:
            store.add_version(ModelVersion(id=model.fingerprint, name=spec, kind="base", source=spec, created_by=run))
        replayed = replay(chosen, CachedModel(model, store), judge)
        measurement = store.add_measurement(
            measure_rate(
                [r.outcome for r in replayed],
                metric="findings_reproduced",
                subject=model.fingerprint,
                subject_name=spec,
                safer="lower",
                dataset=digest([f.id for f in chosen]),
                code=code_digest(CODE),
                judge=judge.digest,
                run=run,
            )
        )
        for row in replayed:
            _regress(store, row, model.fingerprint, measurement.id, run)
    return {"run": run, "model": spec, "measurements": [measurement], "findings": [_row(r) for r in replayed]}


def _regress(store: Store, row: Replayed, fingerprint: str, evidence: str, run: str) -> None:
    """A finding that was mended and shows again has regressed, unless this is the version it was first found on."""
    hit = isinstance(row.outcome, Scored) and row.outcome.value >= 0.5
    if hit and row.finding.status in ("patched", "verified", "closed") and fingerprint != row.finding.subject:
        store.update_finding(row.finding.id, "regressed", evidence=evidence, reason="a stored case succeeds", run=run)


def _row(row: Replayed) -> dict[str, str]:
    why = ""
    if isinstance(row.outcome, Scored):
        result = "reproduces" if row.outcome.value >= 0.5 else "withstood"
    elif isinstance(row.outcome, Errored):
        result, why = "errored", row.outcome.error
    else:
        result, why = "not asked", row.outcome.reason
    return {"finding": row.finding.id, "title": row.finding.title, "result": result, "why": why}
