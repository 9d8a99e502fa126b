"""The first step: look at the model's files before anything else, and record exactly which model this run is about."""

from __future__ import annotations

from fivefold.errors import ModelFileError
from fivefold.runtime.protocol import Cost
from fivefold.runtime.scan import scan_model
from fivefold.thread.context import Context
from fivefold.thread.steps import Result, Step
from fivefold.types import ModelVersion, plain


def run_scan(ctx: Context) -> Result:
    """Scan and fingerprint; a model whose files are blocked is not run."""
    report = scan_model(ctx.plan.model)
    if report.verdict == "blocked":
        raise ModelFileError(
            f"the files of {ctx.plan.model} were blocked by the scan",
            got="; ".join(report.notes)[:500],
            next_step="use safetensors or GGUF files from a source that you trust",
        )
    model = ctx.model("base")
    version = ModelVersion(
        id=model.fingerprint, name=ctx.plan.model, kind="base", source=ctx.plan.model, created_by=ctx.run
    )
    ctx.record_version(version)
    plan_record = ctx.store.append_once("plan", ctx.plan.model_dump(mode="json"), run=ctx.run)
    files = [plain(f) for f in report.files]
    body = {"model": ctx.plan.model, "fingerprint": model.fingerprint, "verdict": report.verdict}
    record = ctx.store.append_once("scan", {**body, "files": files, "notes": list(report.notes)}, run=ctx.run)
    return {
        **body,
        "files": files,
        "notes": list(report.notes),
        "architecture": report.architecture,
        "record": record.id,
        "plan_record": plan_record.id,
        "sentences": [
            f"Loaded as {ctx.plan.model}; fingerprint {model.fingerprint}.",
            f"{len(files)} file(s) scanned, verdict {report.verdict}.",
        ],
    }


SCAN = Step(
    name="scan",
    title="Scan and fingerprint the model",
    code=("runtime",),
    params=lambda plan: plan.model,
    cost=lambda plan: Cost(minutes=0.1),
    run=run_scan,
    summary=lambda r: f"{r['verdict']}, {len(r['files'])} files, fingerprint {r['fingerprint'][:12]}",
)
