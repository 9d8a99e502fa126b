"""The first step: look at the model's files before anything else, and record exactly which model this run is about."""

from __future__ import annotations

from typing import Any

from fivefold.errors import ModelFileError
from fivefold.runtime.protocol import Capability, Cost, WhiteBox
from fivefold.runtime.scan import scan_model
from fivefold.thread.context import Context
from fivefold.thread.steps import Result, Step
from fivefold.thread.versions import files_of
from fivefold.types import ModelVersion


def run_scan(ctx: Context) -> Result:
    """Scan and fingerprint; a model whose files are blocked is not run."""
    verdict, files, notes = scanned(ctx)
    model = ctx.model("base")
    version = ModelVersion(
        id=model.fingerprint, name=ctx.plan.model, kind="base", source=ctx.plan.model, created_by=ctx.run
    )
    ctx.record_version(version)
    plan_record = ctx.store.append_once("plan", ctx.plan.model_dump(mode="json"), run=ctx.run)
    body = {"model": ctx.plan.model, "fingerprint": model.fingerprint, "verdict": verdict}
    record = ctx.store.append_once("scan", {**body, "files": files, "notes": notes}, run=ctx.run)
    return {
        **body,
        "files": files,
        "notes": notes,
        "architecture": architecture(model),
        "record": record.id,
        "plan_record": plan_record.id,
        "sentences": [
            f"Loaded as {ctx.plan.model}; fingerprint {model.fingerprint}.",
            f"{len(files)} file(s) scanned, verdict {verdict}.",
        ],
    }


def scanned(ctx: Context) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Verdict, files and notes. A model whose files are elsewhere is "not scanned", which is not the same as clean."""
    if Capability.ACTIVATIONS not in ctx.model("base").capabilities:
        return "not scanned", [], [f"the files of {ctx.plan.model} are not on this machine"]
    report = scan_model(files_of(ctx.plan.model))
    notes = [f"{issue.file}: {issue.level}: {issue.what}" for issue in report.issues]
    if report.verdict == "blocked":
        raise ModelFileError(
            f"the files of {ctx.plan.model} were blocked by the scan",
            got="; ".join(notes)[:500],
            next_step="use safetensors or GGUF files from a source that you trust",
        )
    files = [{"path": f.file, "sha256": f.sha256, "bytes": f.size, "format": f.format} for f in report.files]
    return report.verdict, files, notes


def architecture(model: Any) -> str:
    """Class name of the module behind a model, empty for a closed one."""
    while model is not None and not isinstance(model, WhiteBox):
        model = getattr(model, "inner", None)
    return type(model.module).__name__ if model is not None else ""


def _files(n: int) -> str:
    return "1 file" if n == 1 else f"{n} files"


SCAN = Step(
    name="scan",
    title="Scan and fingerprint the model",
    code=("runtime",),
    params=lambda plan: plan.model,
    cost=lambda plan: Cost(minutes=0.1),
    run=run_scan,
    summary=lambda r: f"{r['verdict']}, {_files(len(r['files']))}, fingerprint {r['fingerprint'][:12]}",
)
