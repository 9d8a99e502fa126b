"""`fivefold findings replay`: the stored cases of findings on any version, each told by the judge that judged it then; a
closed finding that reproduces regresses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fivefold.errors import UnknownNameError, UsageError
from fivefold.evidence import Store
from fivefold.redteam.replay import Replayed
from fivefold.runtime.cached import CachedModel
from fivefold.runtime.load import load
from fivefold.stats import measure_rate
from fivefold.thread.attack import CODE
from fivefold.thread.finding_judges import Absent, FindingJudges
from fivefold.thread.steps import code_digest
from fivefold.types import Errored, Finding, ModelVersion, Scored, digest


def replay_findings(
    spec: str, *, ids: Sequence[str] | None, limit: int | None = None, judge: str | None = None
) -> dict[str, Any]:
    """Ask the findings' cases of the model that `spec` names, and record what was seen. `judge` names one judge for all, in
    place of the one recorded with each; a finding whose judge is not at hand is unscored, and `notes` say so."""
    model = load(spec)
    with Store.open() as store:
        findings = {f.id: f for f in store.findings()}
        for id in ids or ():
            if id not in findings:
                raise UnknownNameError("finding", id, findings, next_step="fivefold findings list")
        chosen = [findings[i] for i in ids or findings][:limit]
        if not chosen:
            raise UsageError("there are no findings to replay", next_step="fivefold redteam finds some")
        judges = FindingJudges(store, judge)
        run = f"replay-{digest([spec, sorted(f.id for f in chosen)])[:8]}"
        if model.fingerprint not in {v.id for v in store.versions()}:
            store.add_version(ModelVersion(id=model.fingerprint, name=spec, kind="base", source=spec, created_by=run))
        replayed = judges.replay(chosen, CachedModel(model, store))
        measurement = store.add_measurement(
            measure_rate(
                [r.outcome for r in replayed],
                metric="findings_reproduced",
                subject=model.fingerprint,
                subject_name=spec,
                safer="lower",
                dataset=digest([f.id for f in chosen]),
                code=code_digest(CODE),
                judge=judges.digest(chosen),
                run=run,
            )
        )
        for row in replayed:
            _regress(store, row, model.fingerprint, measurement.id, run)
        notes = unjudged(judges, chosen)
    rows = [_row(r) for r in replayed]
    return {"run": run, "model": spec, "measurements": [measurement], "findings": rows, "notes": notes}


def unjudged(judges: FindingJudges, findings: Sequence[Finding]) -> list[str]:
    """One line for each reason why a judge of findings is not at hand, with how many it leaves unjudged."""
    reasons = Counter(
        judge.reason
        for f in findings
        if isinstance(judge := judges.of(f), Absent) and not all(r.check for r in f.reproductions)
    )
    return [f"{n} finding{'s' * (n != 1)} not judged: {reason}" for reason, n in reasons.items()]


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
        result, why = ("not judged" if row.completions else "not asked"), row.outcome.reason
    return {"finding": row.finding.id, "title": row.finding.title, "result": result, "why": why}
