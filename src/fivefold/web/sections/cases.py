"""Flipped cases and transcripts: a table of paired comparisons, and a block of JSON that the page renders on demand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fivefold.web import text
from fivefold.web.data import AnswerData, ComparisonData, TranscriptData
from fivefold.web.names import (
    by_language,
    category_title,
    language_title,
    metric_title,
    version_title,
)
from fivefold.web.sections.frame import Frame, Number, span

PREFERRED = ("base", "patched", "patched+guarded")


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """One comparison: the paired difference with its interval and how many cases went each way."""

    suite: str
    metric: str
    language: str
    pair: str
    n: str
    number: Number
    p: str
    to_safer: str
    to_worse: str


@dataclass(frozen=True, kw_only=True)
class CasesView:
    """`block` is the JSON that the page's script reads; the option lists fill its filters."""

    pairs: tuple[PairRow, ...]
    span: tuple[float, float]
    suites: tuple[str, ...]
    languages: tuple[tuple[str, str], ...]
    choices: tuple[tuple[int, str], ...]
    total: int
    block: Markup


def view(frame: Frame, heat_cells: Sequence[dict[str, Any]]) -> CasesView:
    """Comparisons and transcripts."""
    comparisons = frame.data.get("comparisons") or []
    transcripts = frame.data.get("transcripts") or {}
    pairs = list(dict.fromkeys((c["a"], c["b"]) for c in comparisons))
    rows = tuple(_pair_row(c) for c in comparisons)
    return CasesView(
        pairs=rows,
        span=span([r.number for r in rows]),
        suites=tuple(sorted({t.get("suite") or "" for t in transcripts.values()} - {""})),
        languages=tuple(
            (c, language_title(c)) for c in by_language({t.get("language") or "" for t in transcripts.values()} - {""})
        ),
        choices=tuple((i, _pair_title(a, b)) for i, (a, b) in enumerate(pairs)),
        total=len(transcripts),
        block=_block(frame, comparisons, pairs, heat_cells),
    )


def embed(value: Any) -> Markup:
    """JSON that is safe inside a `script` element and holds no hidden character as itself."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    body = body.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(_escape_hidden(body))


def _escape_hidden(body: str) -> str:
    return text.HIDDEN.sub(lambda m: json.dumps(m[0])[1:-1], body)


def _pair_row(c: ComparisonData) -> PairRow:
    difference, low, high = c.get("difference"), c.get("low"), c.get("high")
    number = Number(
        version=c["b"],
        shown=text.change(difference),
        interval=text.interval(low, high, signed=True),
        counts="",
        anchor="",
        estimate=difference,
        low=low,
        high=high,
        better="neither",
    )
    return PairRow(
        suite=c["suite"],
        metric=metric_title(c["metric"]),
        language=language_title(c.get("language") or "") or "all",
        pair=_pair_title(c["a"], c["b"]),
        n=text.count(c.get("n")),
        number=number,
        p=text.p_value(c.get("p_value")),
        to_safer=_flips(c.get("to_safer")),
        to_worse=_flips(c.get("to_worse")),
    )


def _flips(cases: list[str] | None) -> str:
    return text.NOT_MEASURED if cases is None else str(len(cases))


def _pair_title(a: str, b: str) -> str:
    return f"{version_title(a)} \u2192 {version_title(b).lower()}"


def _block(
    frame: Frame,
    comparisons: Sequence[ComparisonData],
    pairs: Sequence[tuple[str, str]],
    heat_cells: Sequence[dict[str, Any]],
) -> Markup:
    transcripts = frame.data.get("transcripts") or {}
    flips = _flipped(comparisons, pairs)
    order = [*transcripts, *(i for i in flips if i not in transcripts)]
    place = {case: i for i, case in enumerate(order)}
    cells = [{**c, "cases": [place[i] for i in c["cases"] if i in place]} for c in heat_cells]
    names = list(frame.versions)
    return embed(
        {
            "hidden": text.hidden_pattern(),
            "versions": [{"name": v, "title": version_title(v)} for v in names],
            "preferred": [i for i, v in enumerate(names) if v in PREFERRED] or list(range(len(names))),
            "pairs": [{"title": _pair_title(a, b), "to": names.index(b) if b in names else -1} for a, b in pairs],
            "cases": [_case(i, transcripts.get(i), names, flips.get(i, [])) for i in order],
            "cells": cells,
        }
    )


def _flipped(
    comparisons: Sequence[ComparisonData], pairs: Sequence[tuple[str, str]]
) -> dict[str, list[tuple[int, int, str]]]:
    """Case id → (pair, 1 safer or -1 worse, metric)."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    for c in comparisons:
        pair = pairs.index((c["a"], c["b"]))
        for direction, cases in ((1, c.get("to_safer")), (-1, c.get("to_worse"))):
            for case in cases or []:
                found.setdefault(case, []).append((pair, direction, metric_title(c["metric"])))
    return found


def _case(
    name: str, t: TranscriptData | None, versions: Sequence[str], flips: list[tuple[int, int, str]]
) -> dict[str, Any]:
    if t is None:
        return {"id": name, "prompt": None, "flips": flips}
    answers = t.get("answers") or {}
    case: dict[str, Any] = {
        "id": name,
        "prompt": t["prompt"],
        "category": category_title(t.get("category") or ""),
        "language": t.get("language") or "",
        "languageTitle": language_title(t.get("language") or ""),
        "suite": t.get("suite") or "",
        "answers": [_answer(answers.get(v)) for v in versions],
        "flips": flips,
    }
    if t.get("attack"):
        case["attack"] = t["attack"]
    if t.get("messages"):
        case["messages"] = [[m["role"], m["content"]] for m in t["messages"] or []]
    return case


def _answer(answer: AnswerData | None) -> list[str | None] | None:
    if answer is None:
        return None
    return [answer.get("text"), answer.get("label"), answer.get("stop_reason"), answer.get("error")]
