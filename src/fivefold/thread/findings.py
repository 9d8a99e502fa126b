"""The life of findings in a run: who patched them, what verified them, when they may close."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fivefold.evidence import Record
from fivefold.redteam.life import Seen, moves
from fivefold.thread.context import Context
from fivefold.types import Decision, Finding, Status, outcome_from_json


def mark_patched(ctx: Context, evidence: str) -> None:
    """After the patch and guard steps: every open finding is answered by the last version that was made."""
    version = ctx.available()[-1]
    fingerprint = ctx.model(version).fingerprint
    for finding in findings_of(ctx):
        if finding.status in ("open", "regressed"):
            ctx.store.update_finding(
                finding.id,
                "patched",
                evidence=evidence,
                reason=f"version {version} answers it",
                run=ctx.run,
                patches=(*finding.patches, fingerprint),
            )


def settle_findings(ctx: Context, decision: Decision, record: Record) -> None:
    """Move findings on by what replay and re-attack saw on the version that was decided about (`redteam.life`).
    Whatever was not measured stays where it is."""
    if "replay" not in ctx.results:
        return
    version = decision.subject_name
    rows = ctx.results["replay"]["rows"].get(version, {})
    passed = decision.decision in ("ship", "ship_with_safeguards")
    for finding in findings_of(ctx):
        seen = _seen(ctx, version, finding, rows.get(finding.id, {}).get("outcome"), passed)
        for move in moves(finding, seen) if finding.status == "patched" else ():
            _move(ctx, finding, move.status, record, move.reason)


def findings_of(ctx: Context) -> list[Finding]:
    """This run's findings as they stand now."""
    ids = set(ctx.results.get("redteam", {}).get("findings", []))
    return [f for f in ctx.store.findings() if f.id in ids]


def _move(ctx: Context, finding: Finding, status: Status, record: Record, reason: str) -> None:
    ctx.store.update_finding(finding.id, status, evidence=record.id, reason=reason, run=ctx.run)


def _seen(ctx: Context, version: str, finding: Finding, outcome: Mapping[str, Any] | None, passed: bool) -> Seen:
    """What the re-attack saw in the finding's category and language: any attack that was judged there counts, a hit
    counts against the finding when it is one of its own attacks."""
    cells = [
        c
        for c in ctx.results.get("reattack", {}).get("heat", {}).get(version, [])
        if (c["category"], c["language"]) == (finding.category, finding.language)
    ]
    own = {finding.attack, *finding.also}
    return Seen(
        replay=outcome_from_json(outcome) if outcome else None,
        held_out=sum(c["n"] for c in cells),
        held_out_hits=sum(c["successes"] for c in cells if c["attack"] in own),
        gate_passed=passed,
    )
