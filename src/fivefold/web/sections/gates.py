"""The gate: every rule against every version, with the bound that was held against the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fivefold.web import text
from fivefold.web.data import GateResultData, RuleData, part
from fivefold.web.names import in_words, is_change, metric_title, slice_title, version_title
from fivefold.web.sections.frame import Frame, Key, Number, slice_key, span, unmeasured

WORDS = {"pass": "Pass", "fail": "Fail", "undecided": "Undecided", "waived": "Waived"}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a rule said of one version. `kind` is "" where the rule was not applied to it."""

    version: str
    kind: str
    word: str
    reason: str
    next: str


@dataclass(frozen=True, kw_only=True)
class RuleRow:
    """One rule: the threshold, the number of the version that the decision is about, and a mark for each version."""

    id: str
    title: str
    where: str
    why: str
    threshold: str
    limit: float | None
    bound: str
    number: Number
    span: tuple[float, float]
    marks: tuple[Mark, ...]
    suite: str | None
    language: str


@dataclass(frozen=True, kw_only=True)
class GateView:
    """The gate file and its rules."""

    name: str
    description: str
    about: str
    rows: tuple[RuleRow, ...]


def view(frame: Frame) -> GateView | None:
    """The gate table; None when no rule was applied."""
    results = part(frame.data.get("decision")).get("gates") or []
    file = frame.data.get("gate_file") or {}
    if not results:
        return None
    rules = {r["id"]: r for r in file.get("rules") or []}
    names = list(dict.fromkeys([*rules, *(g["rule"] for g in results)]))
    name = " ".join(p for p in (file.get("gate"), file.get("version") and f"version {file['version']}") if p)
    return GateView(
        name=name or "the gate",
        description=file.get("description") or "",
        about=version_title(frame.chosen) if frame.chosen else "",
        rows=tuple(_row(frame, rules.get(n), [g for g in results if g["rule"] == n], n) for n in names),
    )


def _row(frame: Frame, rule: RuleData | None, results: Sequence[GateResultData], name: str) -> RuleRow:
    by_version = {g.get("subject_name") or "": g for g in results}
    shown = by_version.get(frame.chosen) or (results[0] if results else None)
    source: RuleData | GateResultData = shown or rule or {"id": name}
    metric, slice_ = source.get("metric") or "", source.get("slice") or {}
    number = frame.number(Key(metric=metric, slice=slice_key(slice_)), frame.chosen) if shown else unmeasured("")
    limit = shown.get("threshold") if shown else None
    return RuleRow(
        id=name,
        title=metric_title(metric),
        where=slice_title(slice_) if slice_ else "",
        why=part(rule).get("why") or "",
        threshold=_threshold(rule, limit, metric, frame.unit(metric)),
        limit=limit,
        bound=_shown(shown.get("bound") if shown else None, metric, frame.unit(metric)),
        number=number,
        span=span([number], limit),
        marks=tuple(_mark(v, by_version.get(v)) for v in frame.versions),
        suite=frame.suite_of(metric),
        language=slice_.get("language", ""),
    )


def _mark(version: str, result: GateResultData | None) -> Mark:
    if result is None:
        return Mark(version=version, kind="", word=text.NOT_MEASURED, reason="", next="")
    verdict = result["verdict"]
    kind, reason = verdict["kind"], text.sentence(in_words(verdict.get("reason") or ""))
    if kind == "waived":
        reason += f" Waived by {verdict.get('owner') or 'nobody named'} until {verdict.get('expiry') or 'no date'}."
    return Mark(
        version=version,
        kind=kind,
        word=WORDS[kind],
        reason=reason,
        next=in_words(verdict.get("next_measurement") or ""),
    )


def _threshold(rule: RuleData | None, limit: float | None, metric: str, unit: str) -> str:
    value = _shown(limit, metric, unit)
    if rule is None or limit is None:
        return value
    return f"at most {value}" if rule.get("max") is not None else f"at least {value}"


def _shown(value: float | None, metric: str, unit: str) -> str:
    return text.change(value, unit) if is_change(metric) else text.amount(value, unit)
