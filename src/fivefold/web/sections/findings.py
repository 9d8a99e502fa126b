"""Findings and their life: what was found, its cause inside the model, the patch that answers it, where it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fivefold.web import text
from fivefold.web.data import FindingData, ReproductionData
from fivefold.web.names import attack_title, category_title, language_title, version_title
from fivefold.web.sections.frame import Frame

LIFE = ("open", "patched", "verified", "closed")
STATUS_ORDER = ("regressed", "open", "patched", "verified", "closed")
SEVERITIES = ("critical", "high", "medium", "low")
TOLD = frozenset({"sentence", "concept", "layer", "position", "projection", "threshold", "percentile"})


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the standard life. `state`: done, now, ahead or regressed."""

    name: str
    state: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the history."""

    status: str
    record: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One reproduction as turns of (role, text)."""

    turns: tuple[tuple[str, str], ...]
    seed: str


@dataclass(frozen=True, kw_only=True)
class FindingView:
    """One finding."""

    id: str
    anchor: str
    title: str
    status: str
    severity: str
    severity_reason: str
    facts: tuple[tuple[str, str], ...]
    life: tuple[Stage, ...]
    history: tuple[Event, ...]
    cause: str
    cause_more: tuple[tuple[str, str], ...]
    patches: tuple[tuple[str, str], ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True)
class FindingsView:
    """All findings, the least settled and the most severe first; `table` counts severity × status."""

    findings: tuple[FindingView, ...]
    statuses: tuple[str, ...]
    table: tuple[tuple[str, tuple[int, ...]], ...]


def view(frame: Frame) -> FindingsView | None:
    """The findings; None when no red team ran."""
    found = frame.data.get("findings")
    if found is None:
        return None
    ordered = sorted(found, key=lambda f: (_rank(STATUS_ORDER, f["status"]), _rank(SEVERITIES, f.get("severity"))))
    tally: Counter[tuple[str, str]] = Counter((f.get("severity") or text.NOT_MEASURED, f["status"]) for f in found)
    levels = [s for s in (*SEVERITIES, text.NOT_MEASURED) if any(level == s for level, _ in tally)]
    return FindingsView(
        findings=tuple(_finding(frame, f) for f in ordered),
        statuses=STATUS_ORDER,
        table=tuple((level, tuple(tally[level, s] for s in STATUS_ORDER)) for level in levels),
    )


def cause_sentence(cause: Mapping[str, Any] | None) -> str:
    """What interpretability says of the reproducing case, in one sentence."""
    if not cause:
        return f"Internal cause: {text.NOT_MEASURED}."
    if cause.get("sentence"):
        return str(cause["sentence"])
    if cause.get("projection") is None:
        return f"Position on the {cause.get('concept') or 'concept'} direction: {text.NOT_MEASURED}."
    where = f" at layer {cause['layer']}" if cause.get("layer") is not None else ""
    parts = [
        f"On the {cause.get('concept') or 'concept'} direction{where} the prompt lies at {_plain(cause['projection'])}"
    ]
    if cause.get("percentile") is not None:
        parts.append(f"above {_plain(cause['percentile'])}% of plainly harmful prompts")
    if cause.get("threshold") is not None:
        side = "above" if float(cause["projection"]) > float(cause["threshold"]) else "below"
        parts.append(f"{side} the threshold of {_plain(cause['threshold'])}")
    return ", ".join(parts) + "."


def _finding(frame: Frame, f: FindingData) -> FindingView:
    cause = f.get("cause") or {}
    history = tuple(_event(line) for line in f.get("history") or [])
    prints = {v["fingerprint"]: v["name"] for v in frame.data.get("versions") or [] if v.get("fingerprint")}
    return FindingView(
        id=f["id"],
        anchor=text.anchor("f", f["id"]),
        title=text.sentence(f["title"]),
        status=f["status"],
        severity=f.get("severity") or "",
        severity_reason=f.get("severity_reason") or "",
        facts=_facts(f),
        life=_life(f["status"], {e.status for e in history}),
        history=history,
        cause=cause_sentence(cause),
        cause_more=_more(cause),
        patches=tuple((p, version_title(prints[p]) if p in prints else "") for p in f.get("patches") or []),
        cases=tuple(_case(r) for r in f.get("reproductions") or []),
    )


def _more(cause: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    if cause.get("sentence"):
        return ()
    return tuple((k.replace("_", " "), _plain(v)) for k, v in cause.items() if k not in TOLD)


def _facts(f: FindingData) -> tuple[tuple[str, str], ...]:
    taxonomy = f.get("taxonomy") or {}
    rows = (
        ("Category", category_title(f.get("category") or "")),
        ("Language", language_title(f.get("language") or "")),
        ("Attack", attack_title(f.get("attack") or "")),
        ("Surface", taxonomy.get("surface") or ""),
        ("Technique", taxonomy.get("technique") or ""),
        ("OWASP", ", ".join(taxonomy.get("owasp") or [])),
        ("MITRE ATLAS", ", ".join(taxonomy.get("atlas") or [])),
        ("Behaviours", ", ".join(f.get("behaviours") or [])),
    )
    return tuple(r for r in rows if r[1])


def _life(status: str, seen: set[str]) -> tuple[Stage, ...]:
    """Four places; a finding that came back shows "regressed" where it would have been verified."""
    if status == "regressed":
        past = tuple(Stage(name=n, state="done") for n in LIFE[:2])
        return (*past, Stage(name="regressed", state="regressed"), Stage(name="closed", state="ahead"))
    return tuple(Stage(name=n, state="now" if n == status else "done" if n in seen else "ahead") for n in LIFE)


def _event(line: list[str]) -> Event:
    status, record, reason = [*line, "", "", ""][:3]
    return Event(status=status, record=record, reason=reason)


def _case(r: ReproductionData) -> Case:
    turns = [(m["role"], m["content"]) for m in r.get("messages") or []]
    if r.get("prefill"):
        turns.append(("prefilled answer", r.get("prefill") or ""))
    response = r.get("response")
    turns.append(("answer", response if response else "(empty)" if response == "" else text.NOT_MEASURED))
    return Case(turns=tuple(turns), seed="" if r.get("seed") is None else str(r["seed"]))


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}".replace("-", text.MINUS)
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value)
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    return text.NOT_MEASURED if value is None else str(value)


def _rank(order: tuple[str, ...], value: str | None) -> int:
    return order.index(value) if value in order else len(order)
