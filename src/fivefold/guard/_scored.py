"""From the scores of a text's views to one verdict, by the threshold of a language that each view holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fivefold.guard.language import languages_in
from fivefold.guard.normalise import View
from fivefold.types import Exchange, Verdict


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A view of a text and its score; higher is worse."""

    view: View
    score: float


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A view against the threshold it comes closest to passing."""

    view: View
    score: float
    threshold: float
    language: str

    @property
    def margin(self) -> float:
        return self.score - self.threshold


def measured(view: View, thresholds: Mapping[str, float], exchange: Exchange, assume: str | None) -> list[str]:
    """Languages with a threshold by which a view can be judged; `assume` where it has none."""
    told = exchange.metadata.get("language")
    held = {str(told)} if told and view.name == "plain" else languages_in(view.text)
    known = sorted(held & set(thresholds))
    return known or ([assume] if assume in thresholds and assume is not None else [])


def judge(
    guard: str,
    concept: str,
    scored: Sequence[Scored],
    thresholds: Mapping[str, float],
    exchange: Exchange,
    assume: str | None = None,
) -> Verdict:
    """Block when any view reaches a threshold of a language it holds; abstain when no view holds a measured
    language."""
    judged = [
        _Judged(view=s.view, score=s.score, threshold=thresholds[language], language=language)
        for s in scored
        for language in measured(s.view, thresholds, exchange, assume)
    ]
    if not judged:
        known = ", ".join(sorted(thresholds)) or "no language"
        return Verdict(action="abstain", guard=guard, reason=f"thresholds are measured for {known} only")
    worst = max(judged, key=lambda j: j.margin)
    block = worst.margin >= 0
    where = "" if worst.view.name == "plain" else f" (read as {worst.view.name})"
    return Verdict(
        action="block" if block else "allow",
        guard=guard,
        reason=f"{concept} {worst.score:.2f} reaches {worst.threshold:.2f}{where}" if block else "",
        score=worst.score,
        threshold=worst.threshold,
        metadata={"language": worst.language, "view": worst.view.name},
    )
