"""What a store's red-team runs tried, as tables: coverage of the taxonomy, effort, and transfer between models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fivefold.errors import UnknownNameError, UsageError
from fivefold.evidence import Store
from fivefold.redteam import kept
from fivefold.redteam.campaign import Tried
from fivefold.redteam.coverage import Covered, combinations, coverage
from fivefold.redteam.curves import UNITS, Unit, by_attack, effort, success_curve, survival_curve
from fivefold.redteam.transfer import transfer_matrix
from fivefold.registry import registry
from fivefold.runtime.cached import CachedModel
from fivefold.runtime.load import load
from fivefold.thread.attack import judge_of_answers
from fivefold.types import Scored, plain

FILES = ("redteam.json", "reattack.json")


def results(store: Store, run: str | None = None) -> dict[str, list[Tried]]:
    """Every kept result, `RUN/MODEL` → results; UsageError when the named run kept none."""
    found: dict[str, list[Tried]] = {}
    for record in store.records("artifact", run):
        if record.body["name"] in FILES:
            for name, tried in kept.read(store.artifact(record.body["digest"]).read_bytes()).items():
                found.setdefault(f"{record.run}/{name}", []).extend(tried)
    if run is not None and not found:
        runs = sorted({r.run for r in store.records("artifact") if r.body["name"] in FILES})
        raise UnknownNameError("run with attacks", run, runs, next_step="fivefold redteam --attack template --model M")
    return found


def covered(run: str | None = None) -> dict[str, list[Covered]]:
    """Coverage of the taxonomy, and the combinations of attack, transforms and language that were tried."""
    with Store.open() as store:
        tried = [t for items in results(store, run).values() for t in items]
    known = registry("guard")
    guards = {name: known.module(name).TAXONOMY for name in known.names() if hasattr(known.module(name), "TAXONOMY")}
    return {"coverage": coverage(tried, guards), "combinations": combinations(tried)}


def curves(run: str | None, unit: str) -> list[dict[str, Any]]:
    """Success at n queries, survival and cost of a success, for each model and attack that was tried."""
    if unit not in UNITS:
        raise UnknownNameError("unit", unit, UNITS)
    chosen: Unit = next(u for u in UNITS if u == unit)
    with Store.open() as store:
        found = results(store, run)
    return [
        {
            "model": name,
            "attack": attack,
            "success_at": [plain(p) for p in success_curve(items, judge=_judge_of(items))],
            "survival": [plain(s) for s in survival_curve(items, chosen)],
            "effort": plain(effort(items, chosen)),
            "unit": unit,
        }
        for name, tried in found.items()
        for attack, items in by_attack(tried).items()
    ]


def transfer(run: str, models: Sequence[str], judge_name: str | None) -> list[dict[str, Any]]:
    """The successes of a run, sent to other models."""
    if not models:
        raise UsageError("no model to send them to was named", next_step="fivefold redteam transfer RUN --to MODEL")
    judge = judge_of_answers(judge_name)
    with Store.open() as store:
        sources = results(store, run)
        targets = {spec: CachedModel(load(spec), store) for spec in models}
        cells = transfer_matrix(sources, targets, judge)
    return [
        {"source": c.source, "target": c.target, "rate": plain(c.rate), "outcomes": plain(c.outcomes)} for c in cells
    ]


def _judge_of(tried: Sequence[Tried]) -> Literal["refusal", "other"]:
    """Whether the rules of `refusal`, whose error is known, judged all of these."""
    rules = judge_of_answers().digest
    judged = {a.outcome.judge for t in tried for a in t.attempts if isinstance(a.outcome, Scored)}
    return "refusal" if judged <= {rules} else "other"
