"""How fast this machine is, so that minutes in a plan are measured, not guessed: learnt from each run, kept in the
home."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from fivefold.thread.context import Context
from fivefold.thread.steps import Rates

FILE = "rates.json"


def known_rates() -> Rates:
    """The speeds that earlier runs in this home measured, else the assumed ones."""
    path = Path(os.environ.get("FIVEFOLD_HOME", ".fivefold")) / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Rates(**data)
    except (OSError, ValueError, TypeError):
        return Rates()


def learn_rates(ctx: Context) -> None:
    """Keep the speeds of this run's steps, where they computed anything."""
    found: dict[str, Any] = {}
    base = ctx.results.get("evaluate base", {}).get("speed", {})
    found |= {k: v for k, v in base.items() if k in ("prompt", "completion") and v}
    train = ctx.results.get("patch", {}).get("tokens_per_second")
    if train:
        found["train"] = train
    if not found:
        return
    known = known_rates()
    merged = {"prompt": known.prompt, "completion": known.completion, "train": known.train, **found}
    merged["source"] = f"measured by run {ctx.run} on {platform.machine()} with {os.cpu_count()} cores"
    temporary = ctx.home / (FILE + ".new")
    temporary.write_text(json.dumps(merged), encoding="utf-8")
    temporary.replace(ctx.home / FILE)
