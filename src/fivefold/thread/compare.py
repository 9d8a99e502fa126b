"""Compare two runs or versions on the cases that both were asked: flipped cases first, paired intervals after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fivefold.errors import UnknownNameError, UsageError
from fivefold.evaluate.suites import suite
from fivefold.evidence import Store
from fivefold.stats import measure_change
from fivefold.types import Outcome, outcome_from_json

Suites = Mapping[str, Mapping[str, Outcome]]


def compare_runs(store: Store, a: str, b: str) -> dict[str, Any]:
    """`a` and `b` are RUN or RUN:VERSION (base when left out)."""
    before, after = _outcomes(store, a), _outcomes(store, b)
    shared = [name for name in before if name in after]
    if not shared:
        raise UsageError(f"{a} and {b} have no suite in common", got=f"{', '.join(before)} | {', '.join(after)}")
    comparisons, flips = [], []
    for name in shared:
        cases = {c.id: c for c in (*suite(name).all_cases, *suite(name).benign)}
        for language in sorted({cases[i].language for i in before[name] if i in cases}):
            ids = [i for i in before[name] if i in after[name] and cases[i].language == language]
            if not ids:
                continue
            change = measure_change(
                {i: before[name][i] for i in ids},
                {i: after[name][i] for i in ids},
                metric=suite(name).metric,
                subject=b,
                subject_name=b,
                safer=suite(name).safer,
            )
            if change.estimate is None:
                continue
            row = {"suite": name, "metric": change.metric, "language": language, "n": change.n_scored}
            row |= {"difference": change.estimate, "low": change.low, "high": change.high}
            comparisons.append({**row, "p_value": change.metadata["p_value"]})
            flipped = [*change.metadata["rose"], *change.metadata["fell"]]
            flips += [{"case": i, "a": _label(before[name][i]), "b": _label(after[name][i])} for i in flipped]
    return {"a": a, "b": b, "flipped": flips, "comparisons": comparisons}


def _outcomes(store: Store, name: str) -> Suites:
    run, _, version = name.partition(":")
    version = version or "base"
    steps = [r for r in store.records("step", run) if r.body["name"] == f"evaluate {version}"]
    if not steps:
        known = {
            f"{r.run}:{r.body['name'].removeprefix('evaluate ')}"
            for r in store.records("step")
            if "evaluate" in r.body["name"]
        }
        raise UnknownNameError("run", name, known, next_step="fivefold measurements lists runs")
    found = steps[-1].body["result"]["outcomes"]
    return {s: {i: outcome_from_json(o) for i, o in rows.items()} for s, rows in found.items()}


def _label(outcome: Outcome) -> str:
    return str(getattr(outcome, "label", outcome.kind))
