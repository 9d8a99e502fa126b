"""The report's three statistical charts as SVG: Altair grammars, converted by vl-convert, offline.

Colours are CSS custom properties of the page, so that one drawing serves light, dark and print. Marks in table rows are
drawn by the templates. Vega evaluates no text of the data, and writes it escaped; hidden characters are made visible
before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fivefold.errors import MissingExtraError
from fivefold.web.data import BaselineData, LayerData, LossData, ScoreData
from fivefold.web.names import by_language, language_title
from fivefold.web.text import visible

WIDTH = 470
SERIES = ["var(--v1)", "var(--v2)", "var(--v3)", "var(--v0)"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2]]
GROUPS = ["harmful", "benign"]
BINS = 44
FONT = "Inter, system-ui, sans-serif"


def _altair() -> Any:
    try:
        import altair
    except ImportError as error:
        raise MissingExtraError("altair", "web") from error
    return altair


def auroc_chart(rows: Sequence[LayerData], baseline: BaselineData | None, best_layer: int | None) -> Markup:
    """AUROC by layer with its interval as a band, one line a method; dotted: what the words alone reach."""
    alt = _altair()
    values = [{**r, "method": visible(r["method"]).replace("_", " ")} for r in rows if r.get("auroc") is not None]
    low = min([0.5, *(r.get("low") or r.get("auroc") or 0.5 for r in rows)])
    methods = list(dict.fromkeys(r["method"] for r in values))
    colour = alt.Color("method:N", title=None, scale=alt.Scale(domain=methods, range=SERIES), legend=_strokes(alt))
    dash = alt.StrokeDash("method:N", title=None, scale=alt.Scale(domain=methods, range=DASHES), legend=_strokes(alt))
    title, scale = "AUROC, held-out prompts", alt.Scale(domain=[low, 1])
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X(
            "layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d", grid=False), scale=alt.Scale(nice=False)
        )
    )
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q", color=colour)
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("auroc:Q", title=title, scale=scale),
        color=colour,
        strokeDash=dash,
    )
    layers = [band, line, *_baseline(alt, baseline)]
    if best_layer is not None:
        rule = alt.Chart(alt.Data(values=[{"layer": best_layer}])).encode(x="layer:Q")
        layers.append(rule.mark_rule(color="var(--muted)", strokeDash=[2, 3]))
    return _svg(alt.layer(*layers).properties(width=WIDTH, height=300))


def _baseline(alt: Any, baseline: BaselineData | None) -> list[Any]:
    if not baseline or baseline.get("auroc") is None:
        return []
    chart = alt.Chart(alt.Data(values=[dict(baseline)]))
    band = chart.mark_rect(color="var(--muted)", opacity=0.14).encode(y="low:Q", y2="high:Q")
    line = chart.mark_rule(color="var(--ink)", strokeDash=[1, 3], strokeWidth=1.5).encode(y="auroc:Q")
    has_band = baseline.get("low") is not None and baseline.get("high") is not None
    return [band, line] if has_band else [line]


def projection_chart(scores: Sequence[ScoreData], threshold: Mapping[str, float]) -> Markup:
    """Histogram of projections of harmful and benign prompts by language; findings as ticks; dashed: the threshold."""
    alt = _altair()
    ends = [s["score"] for s in scores] + list(threshold.values())
    low, high = min(ends), max(ends)
    step = (high - low) / BINS or 1.0
    codes = by_language(s.get("language") or "" for s in scores)
    panels = []
    for code in codes:
        mine = [s for s in scores if (s.get("language") or "") == code]
        x = alt.X(
            "from:Q",
            title="projection" if code == codes[-1] else None,
            scale=alt.Scale(domain=[low, low + BINS * step], nice=False),
            axis=alt.Axis(grid=False, tickCount=8, labels=code == codes[-1]),
        )
        title = visible(language_title(code)) or "prompts"
        panels.append(_panel(alt, x, mine, bins(mine, low, step), threshold.get(code), title))
    return _svg(alt.vconcat(*panels, spacing=6).resolve_scale(color="shared"))


def bins(scores: Sequence[ScoreData], low: float, step: float) -> list[dict[str, Any]]:
    """Counts of harmful and benign prompts in bins of width `step` from `low`; empty bins are left out."""
    places = ((s["group"], min(int((s["score"] - low) / step), BINS - 1)) for s in scores if s["group"] != "finding")
    return [
        {"group": group, "from": low + i * step, "to": low + (i + 1) * step, "prompts": n, "zero": 0}
        for (group, i), n in sorted(Counter(places).items())
    ]


def _panel(
    alt: Any, x: Any, scores: Sequence[ScoreData], counts: list[dict[str, Any]], threshold: float | None, title: str
) -> Any:
    colour = alt.Color(
        "group:N", title=None, scale=alt.Scale(domain=GROUPS, range=["var(--bad)", "var(--good)"]), legend=_legend(alt)
    )
    y = alt.Y("prompts:Q", title=title, stack=None, axis=alt.Axis(tickCount=3, tickMinStep=1))
    layers = [
        alt.Chart(alt.Data(values=counts))
        .mark_bar(opacity=0.62)
        .encode(x=x, x2="to:Q", y=y, y2="zero:Q", color=colour),
    ]
    found = [{"from": s["score"]} for s in scores if s["group"] == "finding"]
    if found:
        marks = alt.Chart(alt.Data(values=found)).encode(x="from:Q", y=alt.value(6))
        layers.append(marks.mark_point(shape="triangle-down", size=55, filled=True, opacity=0.9, color="var(--ink)"))
    if threshold is not None:
        rule = alt.Chart(alt.Data(values=[{"from": threshold}])).encode(x="from:Q")
        layers.append(rule.mark_rule(color="var(--ink)", strokeDash=[5, 3], strokeWidth=1.4))
    return alt.layer(*layers).properties(width=WIDTH, height=88)


def loss_chart(losses: Sequence[LossData]) -> Markup:
    """Training loss by step, one panel a stage, each on its own scale: losses of two kinds do not compare."""
    alt = _altair()
    stages = list(dict.fromkeys(visible(r.get("stage") or "training") for r in losses))
    panels = []
    for i, stage in enumerate(stages):
        values = [
            {"step": r["step"], "loss": r["loss"]} for r in losses if visible(r.get("stage") or "training") == stage
        ]
        y = alt.Y("loss:Q", title=f"{stage} loss", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
        chart = alt.Chart(alt.Data(values=values)).mark_line(strokeWidth=1.8, color=SERIES[i % len(SERIES)])
        x = alt.X("step:Q", title="step", axis=alt.Axis(grid=False, tickMinStep=1))
        width = (WIDTH * 2 - 120) // len(stages) if len(stages) > 1 else WIDTH
        panels.append(chart.encode(x=x, y=y).properties(width=max(width, 200), height=150))
    return _svg(alt.hconcat(*panels, spacing=36))


def _legend(alt: Any) -> Any:
    return alt.Legend(orient="top", direction="horizontal", offset=6, symbolStrokeWidth=2.5, symbolSize=130)


def _strokes(alt: Any) -> Any:
    return alt.Legend(
        orient="top",
        direction="horizontal",
        offset=6,
        symbolType="stroke",
        symbolFillColor="transparent",
        symbolSize=380,
        symbolOpacity=1,
    )


def _svg(chart: Any) -> Markup:
    try:
        import vl_convert
    except ImportError as error:
        raise MissingExtraError("vl_convert", "web") from error
    themed = (
        chart.configure(background="transparent", font=FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="var(--muted)",
            titleColor="var(--muted)",
            titleFontWeight="normal",
            labelFontSize=11.5,
            titleFontSize=12,
            gridColor="var(--line)",
            domainColor="var(--line)",
            tickColor="var(--line)",
        )
        .configure_legend(labelColor="var(--ink)", labelFontSize=12)
    )
    drawn = vl_convert.vegalite_to_svg(themed.to_json(validate=False, indent=None))
    body = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", drawn)
    body = re.sub(
        r'<svg\s[^>]*?width="([\d.]+)" height="([\d.]+)"', r'<svg class="chart" data-width="\1"', body, count=1
    )
    return Markup(body)
