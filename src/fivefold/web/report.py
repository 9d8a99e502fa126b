"""The static report: one HTML file that opens from disk, loads nothing, and runs only its own script.

Text of models and attacks is hostile. Templates escape everything, characters that hide or reorder are written as code
points, transcripts lie in a block of JSON and reach the page as text nodes, and a content security policy names the one
style sheet and the one script by hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fivefold.errors import StoreError
from fivefold.web import names, text
from fivefold.web.data import ReportData, check, part
from fivefold.web.sections import (
    before_after,
    cases,
    findings,
    gates,
    heatmap,
    probe,
    provenance,
    tables,
    verdict,
)
from fivefold.web.sections.frame import frame


def render(data: Mapping[str, Any]) -> str:
    """The report as one self-contained HTML document.

    `data` follows `fivefold.web.data.ReportData`; what is absent is shown as "not measured". Raises DataError when a
    field has the wrong form, MissingExtraError when a chart is needed and the extra `web` is not installed.
    """
    body = check(data)
    style, script = _asset("report.css"), _asset("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
            title=_title(body),
            d=body,
            **_views(body),
        )
    )


def write_report(data: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.html` into a folder, whole or not at all, and return its path."""
    page = render(data)
    target = folder / "report.html"
    temporary = folder / "report.html.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        raise StoreError(
            f"the report cannot be written to {target}", got=error, next_step="check the folder's permissions and space"
        ) from error
    return target


def _views(body: ReportData) -> dict[str, Any]:
    shared = frame(body)
    heat = heatmap.view(shared)
    return {
        "frame": shared,
        "verdict": verdict.view(shared),
        "groups": before_after.view(shared),
        "gate": gates.view(shared),
        "heat": heat,
        "cases": cases.view(shared, heat.cells if heat else ()),
        "findings": findings.view(shared),
        "probe": probe.view(shared),
        "training": tables.training(shared),
        "guard": tables.table((body.get("guard") or {}).get("rows") or []),
        "judge": tables.table(body.get("judge") or []),
        "card": body.get("card"),
        "provenance": provenance.view(shared),
        "places": {i: text.anchor("m", i) for m in shared.newest.values() if (i := m.get("id"))},
    }


def _title(body: ReportData) -> str:
    model = part(body.get("model")).get("name") or "model"
    decision = body.get("decision")
    head = verdict.HEADLINES[decision["decision"]] if decision else "No decision"
    return f"{head}: {model} \u00b7 fivefold safety report"


def _policy(style: str, script: str) -> str:
    """Content security policy: nothing may load; the inline style and script are named by their hash."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_source(style)}",
            f"script-src {_source(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _source(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return files("fivefold.web").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fivefold.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "version": names.version_title,
        "language": names.language_title,
        "moment": text.moment,
        "duration": text.duration,
        "short": text.short,
        "anchor": text.anchor,
    }
    return environment
