"""Everything the report shows, as one plain JSON object gathered from a run's records (contract: `web/data.py`)."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from fivefold import __version__
from fivefold.thread.attack import transcript_id
from fivefold.thread.context import Context
from fivefold.thread.findings import findings_of
from fivefold.thread.run import RunResult
from fivefold.types import plain


def report_data(ctx: Context, done: RunResult, *, now: dt.datetime) -> dict[str, Any]:
    """The report of one run."""
    results = done.results
    scan, decide = results["scan"], results["decide"]
    interpret, patch, guard = (results.get(n) for n in ("interpret", "patch", "guard"))
    return {
        "run": ctx.run,
        "plan": ctx.plan.name,
        "created_at": now.isoformat(timespec="seconds"),
        "fivefold_version": __version__,
        "seconds": done.seconds,
        "quick": ctx.plan.quick,
        "model": {
            "name": ctx.plan.model,
            "fingerprint": scan["fingerprint"],
            "files": scan["files"],
            "scan": {"verdict": scan["verdict"], "notes": scan["notes"]},
        },
        "decision": decide["decision"],
        "decision_record": decide["record"],
        "signature": decide["signature"],
        "versions": decide["versions"],
        "measurements": [plain(m) for m in ctx.store.measurements(run=ctx.run)],
        "comparisons": [c for r in results.values() for c in r.get("comparisons", [])],
        "transcripts": transcripts(ctx),
        "heatmap": heatmap(results),
        "findings": [plain(f) for f in findings_of(ctx)],
        "probe": interpret["report"] if interpret else None,
        "training": patch["report"] if patch else None,
        "guard": guard["report"] if guard else None,
        "judge": results["evaluate base"].get("judge", []),
        "gate_file": decide["gate_file"],
        "card": results["documents"]["card"],
        "costs": cost_rows(ctx, done),
        "limits": limits(results),
    }


def transcripts(ctx: Context) -> dict[str, Any]:
    """Every evaluated case that generated text: its prompt and each version's answer with the judge's label."""
    rows: dict[str, Any] = {}
    for name, result in ctx.results.items():
        if not name.startswith("evaluate "):
            continue
        version = name.removeprefix("evaluate ")
        kept = json.loads(ctx.store.artifact(result["transcripts"]).read_bytes())
        for case_id, row in kept.items():
            entry = rows.setdefault(case_id, {k: row[k] for k in ("prompt", "category", "language", "suite")})
            entry.setdefault("answers", {})[version] = row["answer"]
    return {**rows, **attack_transcripts(ctx)}


def attack_transcripts(ctx: Context) -> dict[str, Any]:
    """The attempt that decided each attack on each behaviour: the success, or the last one that was made."""
    rows: dict[str, Any] = {}
    for stage in ("redteam", "reattack"):
        if stage not in ctx.results:
            continue
        kept = json.loads(ctx.store.artifact(ctx.results[stage]["tried"]).read_bytes())
        for version, items in kept.items():
            for item in items:
                if item["attempts"]:
                    id = transcript_id(f"{stage}/{version}", item["attack"], item["case"]["id"])
                    rows[id] = _attack_row(version, item)
    return rows


def _attack_row(version: str, item: Mapping[str, Any]) -> dict[str, Any]:
    attempts = item["attempts"]
    shown = next((a for a in attempts if a["outcome"].get("value", 0) >= 0.5), attempts[-1])
    completion = shown["completion"] or {}
    answer = {
        "text": shown["prefill"] + completion.get("text", ""),
        "label": shown["outcome"].get("label"),
        "stop_reason": completion.get("stop_reason"),
        "error": completion.get("error") or shown["outcome"].get("error"),
    }
    return {
        "prompt": shown["messages"][-1]["content"],
        "category": item["case"]["category"],
        "language": item["case"]["language"],
        "suite": "red team",
        "attack": item["attack"],
        "answers": {version: answer},
    }


def heatmap(results: Mapping[str, Any]) -> dict[str, Any]:
    """Cells by version: the red team on the base, and the re-attack on held-out behaviours of every version."""
    cells: dict[str, Any] = {}
    if "redteam" in results:
        cells["base (attacked behaviours)"] = results["redteam"]["heat"]["base"]
    for version, rows in results.get("reattack", {}).get("heat", {}).items():
        cells[f"{version} (held-out behaviours)"] = rows
    return cells


def cost_rows(ctx: Context, done: RunResult) -> list[dict[str, Any]]:
    """What each step took, and whether its result was already there."""
    return [
        {
            "step": name,
            "seconds": done.step_seconds.get(name),
            "requests": result.get("requests"),
            "tokens": result.get("tokens"),
            "reused": name in done.reused,
        }
        for name, result in done.results.items()
    ]


def limits(results: Mapping[str, Any]) -> list[str]:
    """What was left out or cut short, in the steps' own words."""
    return [note for result in results.values() for note in (*result.get("left_out", []), *result.get("limits", []))]
