"""The audit of a constitutional training: from a behaviour back to the principles, in the words that held at the time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fivefold.align.recipes.constitutional import AUDIT, CONSTITUTION, trace
from fivefold.errors import DataError, UnknownNameError
from fivefold.evidence import Store


def audit_of(run: str, *, case: str | None = None, principle: str | None = None) -> dict[str, Any]:
    """Every revision and label of a run (its name or its folder), of one behaviour or one principle alone.

    Each row has `case`, `stage` (revision or label), `principles` (cited as `id@version`), `what` was learnt from it, and
    the whole record. `principles` gives the cited texts. UnknownNameError for a run, case or principle that is not there.
    """
    folder = folder_of(run)
    rows = [_row(r) for r in trace(folder / AUDIT)]
    constitution = json.loads((folder / CONSTITUTION).read_text(encoding="utf-8"))
    texts = {f"{p['id']}@{constitution['version']}": p["text"] for p in constitution["principles"]}
    if case is not None:
        _known("behaviour", case, {r["case"] for r in rows})
        rows = [r for r in rows if r["case"] == case]
    if principle is not None:
        _known("principle", principle.split("@")[0], {cite.split("@")[0] for cite in texts})
        rows = [r for r in rows if principle.split("@")[0] in {c.split("@")[0] for c in r["principles"]}]
    cited = sorted({c for r in rows for c in r["principles"]})
    return {
        "run": run,
        "constitution": f"{constitution['name']} {constitution['version']}",
        "rows": rows,
        "principles": {cite: texts[cite] for cite in cited},
    }


def folder_of(run: str) -> Path:
    """The folder with a run's audit; `run` is that folder, or a run's name in the store."""
    if (Path(run) / AUDIT).is_file():
        return Path(run)
    with Store.open() as store:
        runs = {p.parent.parent.name: p.parent for p in (store.home / "runs").glob(f"*/constitutional/{AUDIT}")}
    if not runs:
        raise DataError("no constitutional training is in the store", next_step="fivefold align constitutional")
    _known("run", run, runs.keys())
    return runs[run]


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    if record["stage"] == "revision":
        learnt = record["revisions"][-1] if record["revisions"] else record["answer"]
        return {
            "case": record["case"],
            "stage": "revision",
            "principles": record["cites"],
            "what": learnt,
            **_rest(record),
        }
    better = record["first"] if record["probability"] > 0.5 else record["second"]
    learnt = better if record["used"] else "nothing: the label was not sure enough"
    return {"case": record["case"], "stage": "label", "principles": [record["cites"]], "what": learnt, **_rest(record)}


def _rest(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"record": {k: v for k, v in record.items() if k not in ("case", "stage", "cites")}}


def _known(kind: str, name: str, known: Any) -> None:
    if name not in known:
        raise UnknownNameError(kind, name, known)
