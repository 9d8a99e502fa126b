"""The last steps: the model card, the bill of materials, and the report with everything on one page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fivefold.evidence import Store
from fivefold.govern.documents.bom import BomInput, ai_bom
from fivefold.govern.documents.card import CardInput, model_card
from fivefold.govern.documents.claims import Document, to_markdown
from fivefold.thread.context import Context
from fivefold.thread.findings import findings_of
from fivefold.thread.steps import Result, Step
from fivefold.types import Decision, GateResult, plain
from fivefold.types.decision import Fail, Pass, Undecided, Waived

PACKAGES = ("fivefold", "torch", "transformers", "peft", "inspect-ai", "safetensors", "tokenizers", "numpy")


def run_documents(ctx: Context) -> Result:
    """Write the card (Markdown and JSON) and the AI-BOM of the version that was decided about."""
    decision = decision_from(ctx.results["decide"]["decision"])
    card = model_card(_card_input(ctx, decision))
    texts = {
        "card.md": to_markdown(card),
        "card.json": json.dumps(plain(card), ensure_ascii=False, indent=1),
        "bom.json": ai_bom(_bom_input(ctx, decision, card)),
    }
    kinds = {".md": "text/markdown", ".json": "application/json"}
    digests = {}
    for name, text in texts.items():
        artifact = ctx.store.put_artifact(text.encode(), name=name, media_type=kinds[Path(name).suffix], run=ctx.run)
        digests[name] = artifact.digest
    return {"documents": digests, "card": plain(card)}


def lay_out(store: Store, folder: Path, documents: Mapping[str, str]) -> dict[str, str]:
    """Copy documents out of the store to where people look for them; name → path."""
    paths = {}
    for name, digest in documents.items():
        target = folder / name
        data = store.artifact(digest).read_bytes()
        if not target.exists() or target.read_bytes() != data:
            temporary = target.with_suffix(target.suffix + ".new")
            temporary.write_bytes(data)
            temporary.replace(target)
        paths[name] = str(target)
    return paths


def decision_from(body: Mapping[str, Any]) -> Decision:
    """Inverse of `plain(decision)`."""
    kinds: dict[str, Any] = {c.kind: c for c in (Pass, Fail, Undecided, Waived)}

    def gate(row: Mapping[str, Any]) -> GateResult:
        verdict = dict(row["verdict"])
        kind = kinds[verdict.pop("kind")]
        if "missing" in verdict:
            verdict["missing"] = tuple(verdict["missing"])
        return GateResult(**{**row, "verdict": kind(**verdict)})

    rows = tuple(gate(g) for g in body["gates"])
    return Decision(**{**body, "gates": rows, "reasons": tuple(body["reasons"])})


def _card_input(ctx: Context, decision: Decision) -> CardInput:
    measurements = ctx.store.measurements(run=ctx.run)
    base = ctx.model("base").fingerprint
    findings = findings_of(ctx)
    records = {r.body["id"]: r.id for r in ctx.store.records("finding") if "id" in r.body}
    scan, patch, guard = (ctx.results.get(n) for n in ("scan", "patch", "guard"))
    assert scan is not None
    training = history(ctx.store, base)
    if patch and "patched" in decision.subject_name:
        training += [(text, patch["record"]) for text in patch["sentences"]]
    details = [(text, scan["record"]) for text in scan["sentences"]]
    if guard and "guarded" in decision.subject_name:
        details += [(text, guard["record"]) for text in guard["sentences"]]
    return CardInput(
        name=f"{ctx.plan.model} ({decision.subject_name})",
        fingerprint=decision.subject,
        measurements=[m for m in measurements if m.subject == decision.subject],
        base_measurements=[m for m in measurements if m.subject == base],
        findings=findings,
        finding_records=records,
        decision=decision,
        decision_record=ctx.results["decide"]["record"],
        details=details,
        training=training,
        owner_statements=ctx.plan.statements,
        plan_record=ctx.results["scan"]["plan_record"],
    )


def history(store: Store, id: str) -> list[tuple[str, str]]:
    """How a model was trained before the run, as far as the store knows: sentences with the records that hold them."""
    known = {v.id: v for v in store.versions()}
    records = {r.body["id"]: r.id for r in store.records("version")}
    found, version = [], known.get(id)
    while version is not None and (parent := known.get(version.parent)):
        if what := version.trained:
            found.append((f"{version.name} was made from {parent.name} by training {what}.", records[version.id]))
        version = parent
    return found


def _bom_input(ctx: Context, decision: Decision, card: Document) -> BomInput:
    measurements = [m for m in ctx.store.measurements(run=ctx.run) if m.subject == decision.subject]
    scan, patch, guard = (ctx.results.get(n, {}) for n in ("scan", "patch", "guard"))
    datasets = {f"{m.metric}-{'-'.join(m.slice.values()) or 'all'}": m.dataset for m in measurements if m.dataset}
    if patch and "patched" in decision.subject_name:
        datasets["patch-training"] = patch["data"]
    base = ctx.model("base").fingerprint
    known = {v.id: v for v in ctx.store.versions()}
    before = known.get(known[base].parent)
    origin = (before.name, before.id) if before else None
    return BomInput(
        name=f"{ctx.plan.model}-{decision.subject_name}",
        version=decision.subject[:12],
        fingerprint=decision.subject,
        files={f["path"]: f["sha256"] for f in scan["files"]},
        parent=(ctx.plan.model, base) if decision.subject != base else origin,
        architecture=scan.get("architecture", ""),
        datasets=datasets,
        guards=guard.get("parts", {}) if "guarded" in decision.subject_name else {},
        packages=_versions(),
        measurements=measurements,
        decision=decision,
        card=card,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


DOCUMENTS = Step(
    name="documents",
    title="Write the card and the bill of materials",
    needs=("decide",),
    code=("govern",),
    run=run_documents,
    summary=lambda r: ", ".join(r["documents"]),
)
