"""`guarded:PLAN`: the best version that a finished run of a plan left, behind its guards, as a model like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fivefold.errors import UsageError
from fivefold.evidence import Store
from fivefold.runtime.load import load, register_loader
from fivefold.runtime.protocol import Model
from fivefold.thread.context import Context
from fivefold.thread.plan import read_plan
from fivefold.thread.run import run_id

SCHEME = "guarded"


def load_guarded(spec: str, **options: Any) -> Model:
    """The patched (where there is a patch) and guarded model of `guarded:PLAN`; its store stays open behind it."""
    if options:
        raise UsageError("a guarded model takes no options: its plan says everything", got=", ".join(options))
    path = Path(spec.partition(":")[2])
    plan = read_plan(path)
    base = load(plan.model)
    store = Store.open()
    run = run_id(plan, base.fingerprint)
    results = {r.body["name"]: dict(r.body["result"]) for r in store.records("step", run)}
    if "guard" not in results:
        store.close()
        raise UsageError(f"no finished run of {path} has guards", next_step=f"fivefold run {path}")
    ctx = Context(plan=plan, store=store, run=run, subject=base.fingerprint, base=base, results=results)
    return ctx.model(ctx.available()[-1])


register_loader(SCHEME, load_guarded)
