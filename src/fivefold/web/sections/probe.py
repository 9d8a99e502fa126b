"""The internal cause: how well a direction separates harmful from benign prompts, and where the findings lie on it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from markupsafe import Markup

from fivefold.web import charts, text
from fivefold.web.data import LayerData, ProbeData, ScoreData
from fivefold.web.names import by_language, language_title
from fivefold.web.sections.frame import Frame

PLACES = {"last": " at the last token", "mean": " averaged over the prompt"}


@dataclass(frozen=True, kw_only=True)
class ProbeView:
    """Charts with the numbers that they draw. `layers` and `spread` are tables of shown text."""

    summary: str
    auroc: Markup | None
    auroc_label: str
    layers: tuple[tuple[str, ...], ...]
    projection: Markup | None
    projection_label: str
    spread: tuple[tuple[str, ...], ...]


def view(frame: Frame) -> ProbeView | None:
    """The probe's section; None when no probe was trained."""
    probe = frame.data.get("probe")
    if not probe:
        return None
    rows, scores = probe.get("rows") or [], probe.get("scores") or []
    measured = [r for r in rows if r.get("auroc") is not None]
    best = probe.get("best_layer")
    return ProbeView(
        summary=_summary(probe),
        auroc=charts.auroc_chart(measured, probe.get("text_baseline"), best) if measured else None,
        auroc_label=f"Line chart: AUROC by layer, layers {_ends(measured)}. {_summary(probe)}",
        layers=tuple((str(r["layer"]), r["method"].replace("_", " "), *_numbers(r)) for r in rows),
        projection=charts.projection_chart(scores, probe.get("threshold") or {}) if scores else None,
        projection_label=f"Histograms of {len(scores)} prompts' projections by language; the table gives medians.",
        spread=_spread(scores, probe.get("threshold") or {}),
    )


def _summary(probe: ProbeData) -> str:
    best, rows = probe.get("best_layer"), probe.get("rows") or []
    concept = probe.get("concept") or "concept"
    at_best = [r for r in rows if r["layer"] == best and r.get("auroc") is not None]
    if probe.get("method"):
        at_best = [r for r in at_best if r["method"] == probe["method"]] or at_best
    if best is None or not at_best:
        return f"The {concept} direction: no best layer, {text.NOT_MEASURED}."
    top = max(at_best, key=lambda r: r["auroc"] or 0.0)
    place = PLACES.get(str(probe.get("position")), "")
    auroc, bounds = _numbers(top)
    said = f"Layer {best} separates {concept}{place} best: AUROC {auroc}" + (f" ({bounds})" if bounds else "")
    return f"{said}. The words of the prompt alone: {_words(probe)}."


def _words(probe: ProbeData) -> str:
    baseline = probe.get("text_baseline") or {}
    if baseline.get("auroc") is None:
        return text.NOT_MEASURED
    bounds = _bounds(baseline.get("low"), baseline.get("high"))
    return f"{baseline['auroc']:.3f}" + (f" ({bounds})" if bounds else "")


def _numbers(row: LayerData) -> tuple[str, str]:
    auroc = row.get("auroc")
    shown = text.NOT_MEASURED if auroc is None else f"{auroc:.3f}"
    return shown, _bounds(row.get("low"), row.get("high"))


def _bounds(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _ends(rows: list[LayerData]) -> str:
    layers = [r["layer"] for r in rows]
    return f"{min(layers)} to {max(layers)}" if layers else "none"


def _spread(scores: list[ScoreData], threshold: dict[str, float]) -> tuple[tuple[str, ...], ...]:
    rows = []
    for code in by_language(s.get("language") or "" for s in scores):
        mine = [s for s in scores if (s.get("language") or "") == code]
        groups = [[s["score"] for s in mine if s["group"] == g] for g in ("harmful", "benign", "finding")]
        limit = threshold.get(code)
        shown = text.NOT_MEASURED if limit is None else _score(limit)
        rows.append((language_title(code) or "all", *(_median(g) for g in groups), shown))
    return tuple(rows)


def _median(values: list[float]) -> str:
    return f"{_score(statistics.median(values))} (n = {len(values)})" if values else text.NOT_MEASURED


def _score(value: float) -> str:
    return f"{value:.2f}".replace("-", text.MINUS)
