"""Findings in and out: export for other tools, import of their reports, minimisation, and a patch named by hand."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fivefold.errors import UnknownNameError, UsageError
from fivefold.evidence import Store
from fivefold.redteam.exports import ExportContext, export_findings
from fivefold.redteam.imports import import_findings
from fivefold.redteam.minimise import MinimiseConfig, Minimised, minimise_finding
from fivefold.runtime.cached import CachedModel
from fivefold.runtime.load import load
from fivefold.score.protocol import Scorer
from fivefold.thread.finding_judges import Absent, FindingJudges
from fivefold.types import Finding, ModelVersion, Status, digest_bytes


def chosen(store: Store, ids: Sequence[str] | None) -> list[Finding]:
    """These findings, or all; UnknownNameError for an id that is not there."""
    findings = {f.id: f for f in store.findings()}
    for id in ids or ():
        if id not in findings:
            raise UnknownNameError("finding", id, findings, next_step="fivefold findings list")
    return [findings[i] for i in ids or findings]


def export(format: str, *, ids: Sequence[str] | None = None, status: Status | None = None) -> str:
    """The findings (these, or all in this state) as one text."""
    with Store.open() as store:
        findings = [f for f in chosen(store, ids) if status is None or f.status == status]
        names = {v.id: v.name for v in store.versions()}
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return export_findings(findings, format, ExportContext(version=_version(), names=names, date=today))


def bring_in(path: Path, format: str) -> list[Finding]:
    """Store the findings of another tool's report, open until a replay says more; a report that was brought in before
    adds nothing."""
    from fivefold.redteam.imports._safe import check_file

    check_file(path)
    run = f"import-{format}-{digest_bytes(path.read_bytes())[:8]}"
    found = import_findings(path, format, run=run)
    with Store.open() as store:
        return [store.add_finding(f) for f in found]


def minimise(
    spec: str, *, ids: Sequence[str] | None, config: MinimiseConfig | None = None, judge: str | None = None
) -> list[tuple[Finding, Minimised]]:
    """Reduce the first case of these findings (or of all that are open) on the model that `spec` names; stored. Each is told
    by the judge that judged it, or by `judge`; UsageError where that one is not at hand."""
    model = load(spec)
    done = []
    with Store.open() as store:
        target, judges = CachedModel(model, store), FindingJudges(store, judge)
        for finding in chosen(store, ids):
            if ids is None and not _reducible(finding):
                continue
            reduced, how = minimise_finding(finding, target, _judge_of(finding, judges), config)
            if how.confirmed and how.after < how.before:
                store.update_finding(finding.id, reproductions=reduced.reproductions)
            done.append((reduced, how))
    if not done:
        raise UsageError("there is no open finding to minimise", next_step="fivefold redteam finds some")
    return done


def _judge_of(finding: Finding, judges: FindingJudges) -> Scorer:
    judge = judges.of(finding)
    if isinstance(judge, Absent) and not finding.reproductions[0].check:
        raise UsageError(f"{finding.id} cannot be judged", got=judge.reason)
    return judge


def _reducible(finding: Finding) -> bool:
    textual = finding.reproductions and finding.reproductions[0].check.get("kind") != "open_weights"
    return bool(textual) and finding.status in ("open", "regressed")


def name_patch(id: str, spec: str, *, reason: str) -> Finding:
    """Say that the version that `spec` names answers a finding: open or regressed → patched."""
    model = load(spec)
    with Store.open() as store:
        (finding,) = chosen(store, [id])
        run = f"patched-{model.fingerprint[:8]}"
        if model.fingerprint == finding.subject:
            raise UsageError(
                f"{spec} is the version that {id} was found on, so it cannot be its patch", got=model.fingerprint[:12]
            )
        if model.fingerprint not in {v.id for v in store.versions()}:
            store.add_version(ModelVersion(id=model.fingerprint, name=spec, kind="base", source=spec, created_by=run))
        patches = tuple(dict.fromkeys((*finding.patches, model.fingerprint)))
        return store.update_finding(id, "patched", reason=reason, run=run, patches=patches)


def _version() -> str:
    try:
        return version("fivefold")
    except PackageNotFoundError:
        return "0"


def summary(found: Sequence[tuple[Finding, Minimised]]) -> list[dict[str, Any]]:
    """Rows for the command line."""
    return [
        {
            "finding": f.id,
            "confirmed": m.confirmed,
            "minimal": m.minimal,
            "queries": m.queries,
            "characters_before": m.before,
            "characters_after": m.after,
        }
        for f, m in found
    ]
