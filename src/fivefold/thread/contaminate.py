"""Is a benchmark's number earned? Its cases against a corpus, and against their own twins on the model.

Each check gives a sign or none; none of them proves cleanness. What was found is recorded, and every later number of the
same suite is shown with "at risk" beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fivefold.errors import UnknownNameError, UsageError
from fivefold.evaluate.familiarity import familiarity
from fivefold.evaluate.overlap import case_text, read_corpus, scan
from fivefold.evaluate.suites import Suite
from fivefold.evaluate.variants import TWINS, twin
from fivefold.evidence import Store
from fivefold.runtime.protocol import Capability, Model
from fivefold.stats import holm, measure_change, sign_flip_p
from fivefold.thread.asking import Asker
from fivefold.types import Case, Scored, plain

KIND = "contamination"
ALPHA = 0.05
LEAST = 8
"""Pairs below which nothing is said."""


def check_contamination(
    store: Store,
    suite: Suite,
    cases: Sequence[Case],
    *,
    asker: Asker | None = None,
    corpus: Sequence[Path] = (),
    canaries: Sequence[str] = (),
    kinds: Sequence[str] = tuple(TWINS),
) -> dict[str, Any]:
    """Every check that there is something for: `corpus` for overlap, `asker` (a model) for twins and familiarity.

    UsageError with neither; UnknownNameError for a kind of twin.
    """
    if not corpus and asker is None:
        raise UsageError("nothing to check against", next_step="--corpus FILE, --model MODEL, or both")
    if unknown := [k for k in kinds if k not in TWINS]:
        raise UnknownNameError("kind of twin", unknown[0], TWINS)
    checks: dict[str, Any] = {}
    if corpus:
        checks["overlap"] = _overlap(cases, corpus, canaries)
    if asker is not None:
        checks["twins"] = _twins(asker, suite, cases, kinds)
        checks["familiarity"] = _familiarity(asker.model, cases, kinds)
    signs = [sign for check in checks.values() for sign in check["signs"]]
    done = [name for name, check in checks.items() if check["checked"]]
    body = {
        "suite": suite.name,
        "subject": asker.model.fingerprint if asker else "",
        "verdict": "at risk" if signs else "no sign" if done else "not checked",
        "signs": signs,
        "checks": plain(checks),
    }
    record = store.append_once(KIND, body, run=asker.run if asker else f"contamination-{suite.name}")
    return {**body, "record": record.id}


def at_risk(store: Store, name: str) -> list[str]:
    """Signs of the last check of a suite or benchmark, if it found any."""
    last = store.latest(KIND, suite=name)
    if last is None:
        return []
    return [f"{name}: {sign} (record {last.id[:12]})" for sign in last.body["signs"]]


def _overlap(cases: Sequence[Case], corpus: Sequence[Path], canaries: Sequence[str]) -> dict[str, Any]:
    report = scan(cases, read_corpus(corpus), canaries=canaries)
    dirty = frozenset(report.dirty)
    signs = [f"the corpus holds a canary: {c}" for c in report.canaries]
    if report.dirty:
        signs.append(f"{len(report.dirty)} of {len(report.cases)} cases stand in the corpus")
    return {
        "checked": bool(report.cases) or bool(report.canaries),
        "signs": signs,
        "dirty": [{"id": c.id, "covered": c.covered, "where": c.where} for c in report.cases if c.id in dirty],
        "cases": len(report.cases),
        "too_short": len(report.unread),
        "texts": report.texts,
        "width": report.width,
        "threshold": report.threshold,
        "canaries": report.canaries,
    }


def _twins(asker: Asker, suite: Suite, cases: Sequence[Case], kinds: Sequence[str]) -> dict[str, Any]:
    """Original against twin, kind by kind, on the cases that have such a twin; Holm over the kinds."""
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        pairs = [(case, other) for case in cases if (other := twin(case, kind))]
        if len(pairs) < LEAST:
            rows.append({"kind": kind, "n": len(pairs), "p_value": None})
            continue
        before = asker.ask(suite, [c for c, _ in pairs], "original").outcomes
        after = asker.ask(suite, [t for _, t in pairs], f"twin-{kind}").outcomes
        change = measure_change(
            before,
            after,
            metric=f"{suite.metric}_on_twins",
            subject=asker.model.fingerprint,
            subject_name=asker.name,
            safer=suite.safer,
            slice={"twin": kind},
            run=asker.run,
        )
        kept = asker.store.add_measurement(change)
        p = change.metadata["p_value"]
        if p is None and change.n_scored:
            both = [(x.value, y.value) for i in before if _both(x := before[i], y := after[i])]  # type: ignore[union-attr]
            p = sign_flip_p([x for x, _ in both], [y for _, y in both])
        numbers = {"difference": kept.estimate, "low": kept.low, "high": kept.high, "record": kept.id}
        rows.append({"kind": kind, "n": kept.n_scored, "p_value": p, **numbers})
    tested = [row for row in rows if row["p_value"] is not None]
    for row, p in zip(tested, holm([r["p_value"] for r in tested]) if tested else (), strict=True):
        row["p_adjusted"] = float(p)
    return {"checked": bool(tested), "signs": [s for row in tested if (s := _fall(row, suite))], "rows": rows}


def _fall(row: Mapping[str, Any], suite: Suite) -> str | None:
    """The sign that a twin gives: the score is lower on it than on its original (higher is the memory's direction)."""
    if row["difference"] is None or row["p_adjusted"] > ALPHA or row["difference"] >= 0 or suite.safer == "lower":
        return None
    return (
        f"{suite.metric} is {-row['difference']:.3f} lower on twins ({row['kind']}) "
        f"of the same {row['n']} cases (p = {row['p_adjusted']:.2g})"
    )


def _familiarity(model: Model, cases: Sequence[Case], kinds: Sequence[str]) -> dict[str, Any]:
    if Capability.ACTIVATIONS not in model.capabilities:
        return {"checked": False, "signs": [], "reason": f"{model.name} does not show its logits"}
    pairs = []
    for case in cases:
        made = [t for k in kinds if k != "wording" and (t := twin(case, k))]
        if made:
            pairs.append((case_text(case), case_text(replace(made[0], id=case.id))))
    pairs = [(a, b) for a, b in pairs if a != b]
    if len(pairs) < LEAST:
        return {"checked": False, "signs": [], "reason": f"{len(pairs)} cases have a twin of another text"}
    found = familiarity(model, [a for a, _ in pairs], [b for _, b in pairs])  # type: ignore[arg-type]
    share = found.more_familiar
    sign = f"{share.estimate:.0%} of {share.n} cases are more familiar to the model than their twins"
    return {
        "checked": True,
        "signs": [sign] if share.low is not None and share.low > 0.5 else [],
        "more_familiar": plain(share),
        "auroc": plain(found.auroc),
    }


def _both(a: object, b: object) -> bool:
    return isinstance(a, Scored) and isinstance(b, Scored)
