"""The top of the page: the decision, why, who owns it, and safety beside over-refusal and capability at a glance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fivefold.web import text
from fivefold.web.data import part
from fivefold.web.names import by_language, in_words, language_title, metric_title, version_title
from fivefold.web.sections.frame import Frame, Key, Number, span

HEADLINES = {
    "ship": "Ship",
    "ship_with_safeguards": "Ship with safeguards",
    "block": "Do not ship",
    "undecided": "Undecided",
}
GLANCE = (
    ("Safety", ("harmful_compliance", "injection_success", "attack_success")),
    ("Over-refusal", ("over_refusal",)),
    ("Capability", ("capability_accuracy", "capability_change")),
)
HELD_OUT = (("attack", "all"), ("behaviours", "held-out"))


@dataclass(frozen=True, kw_only=True)
class GlanceCell:
    """The lead number of one version, and the other languages in small."""

    lead: Number
    rest: tuple[tuple[str, Number], ...]


@dataclass(frozen=True, kw_only=True)
class GlanceRow:
    """One metric over all versions."""

    part: str
    title: str
    where: str
    better: str
    span: tuple[float, float]
    limit: float | None
    cells: tuple[GlanceCell, ...]


@dataclass(frozen=True, kw_only=True)
class VerdictView:
    """The decision in words. `tone` is a decision kind, or "none" when there is no decision."""

    tone: str
    headline: str
    about: str
    reason: str
    more: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    glance: tuple[GlanceRow, ...]


def view(frame: Frame) -> VerdictView:
    """The top of the page; without a decision it says so."""
    decision = frame.data.get("decision")
    glance = tuple(row for part, metrics in GLANCE for metric in metrics for row in _glance(frame, part, metric))
    if not decision:
        return VerdictView(
            tone="none",
            headline="No decision",
            about="",
            reason="Not measured: no version was held against a gate.",
            more=(),
            facts=_facts(frame),
            glance=glance,
        )
    reasons = [text.sentence(in_words(r)) for r in decision.get("reasons") or []]
    return VerdictView(
        tone=decision["decision"],
        headline=HEADLINES[decision["decision"]],
        about=version_title(frame.chosen) if frame.chosen else "",
        reason=_stop(reasons[0]) if reasons else "No reason was recorded.",
        more=tuple(_stop(r) for r in reasons[1:]),
        facts=_facts(frame),
        glance=glance,
    )


def _stop(reason: str) -> str:
    return reason if reason.endswith((".", ")", "!", "?")) else reason + "."


def _facts(frame: Frame) -> tuple[tuple[str, str], ...]:
    decision = part(frame.data.get("decision"))
    rows = [("Owner", decision.get("owner") or "no owner is named")]
    if decision.get("decided_at"):
        rows.append(("Decided", text.moment(decision.get("decided_at"))))
    rows.append(("Gate", _gate(frame)))
    rows.append(("Findings", _findings(frame)))
    rows.append(("Next measurement", _next(decision.get("next_measurement"))))
    return tuple(rows) if decision else tuple(r for r in rows if r[0] in ("Gate", "Findings"))


def _next(asked: str | None) -> str:
    return text.sentence(in_words(asked)) if asked else "none is needed for this decision"


def _gate(frame: Frame) -> str:
    results = part(frame.data.get("decision")).get("gates") or []
    kinds = Counter(g["verdict"]["kind"] for g in results if g.get("subject_name") == frame.chosen)
    if not kinds:
        return text.NOT_MEASURED
    words = {"pass": "passed", "fail": "failed", "undecided": "undecided", "waived": "waived"}
    return ", ".join(f"{kinds[k]} {word}" for k, word in words.items() if kinds[k])


def _findings(frame: Frame) -> str:
    findings = frame.data.get("findings")
    if findings is None:
        return text.NOT_MEASURED
    states = Counter(f["status"] for f in findings)
    shown = ", ".join(f"{states[s]} {s}" for s in ("regressed", "open", "patched", "verified", "closed") if states[s])
    return f"{len(findings)}: {shown}" if findings else "none were found"


def _glance(frame: Frame, part: str, metric: str) -> list[GlanceRow]:
    keys = [k for k in frame.rows() if k.metric == metric and not k.corrected]
    lead = _lead(keys)
    if lead is None:
        if metric == "capability_change":
            return []
        lead = Key(metric=metric)
    rest = [k for k in keys if k != lead and _language(k) and _language(lead)]
    cells = tuple(
        GlanceCell(
            lead=frame.number(lead, v),
            rest=tuple((language_title(_language(k)), frame.number(k, v)) for k in rest),
        )
        for v in frame.versions
    )
    rule = frame.rules.get(lead)
    limit = None if rule is None else rule["max"] if rule.get("max") is not None else rule.get("min")
    numbers = [c.lead for c in cells]
    return [
        GlanceRow(
            part=part,
            title=metric_title(metric),
            where=_where(lead),
            better=next((n.better for n in numbers if n.better), "neither"),
            span=span(numbers, limit),
            limit=limit,
            cells=cells,
        )
    ]


def _lead(keys: list[Key]) -> Key | None:
    whole = [k for k in keys if not k.slice] or [k for k in keys if k.slice == HELD_OUT]
    if whole:
        return whole[0]
    codes = by_language(_language(k) for k in keys if _language(k))
    return next((k for k in keys if _language(k) == codes[0]), None) if codes else None


def _language(key: Key) -> str:
    return key.slice[0][1] if len(key.slice) == 1 and key.slice[0][0] == "language" else ""


def _where(key: Key) -> str:
    if key.slice == HELD_OUT:
        return "held-out behaviours, all attacks"
    return language_title(_language(key)) if _language(key) else ""
