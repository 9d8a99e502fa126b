"""The category × attack map of each version: one cell an attack, category and language, with the counts in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fivefold.web import text
from fivefold.web.data import HeatCellData
from fivefold.web.names import attack_title, by_language, category_title, language_title, version_title
from fivefold.web.sections.frame import Frame

LEVELS = 8


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """One cell. `level` is 0 to 8 by the share of successes, None where nothing was scored; `index` finds its cases."""

    level: int | None
    shown: str
    fraction: str
    note: str
    index: int | None
    label: str


@dataclass(frozen=True, kw_only=True)
class HeatTable:
    """One version. `attacks` are (title, span) heads over `columns` of (attack, language)."""

    version: str
    title: str
    attacks: tuple[tuple[str, int], ...]
    languages: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class HeatView:
    """All versions, and for each cell index what a click shows."""

    tables: tuple[HeatTable, ...]
    cells: tuple[dict[str, Any], ...]


def view(frame: Frame) -> HeatView | None:
    """The maps of the versions that were attacked; None when none was."""
    maps = frame.data.get("heatmap") or {}
    names = [v for v in (*frame.versions, *(v for v in maps if v not in frame.versions)) if maps.get(v)]
    cells: list[dict[str, Any]] = []
    tables = tuple(_table(frame, v, maps[v], cells) for v in names)
    return HeatView(tables=tables, cells=tuple(cells)) if tables else None


def _table(frame: Frame, version: str, rows: list[HeatCellData], cells: list[dict[str, Any]]) -> HeatTable:
    found = {(r["category"], r["attack"], r.get("language") or ""): r for r in rows}
    attacks = list(dict.fromkeys(attack for _, attack, _ in found))
    columns = [(a, code) for a in attacks for code in by_language(c for _, b, c in found if b == a)]
    categories = sorted({c for c, _, _ in found}, key=category_title)
    body = tuple(
        (category_title(c), tuple(_cell(frame, version, found.get((c, a, code)), cells) for a, code in columns))
        for c in categories
    )
    return HeatTable(
        version=version,
        title=version_title(version),
        attacks=tuple((attack_title(a), sum(b == a for b, _ in columns)) for a in attacks),
        languages=tuple(language_title(code) for _, code in columns),
        rows=body,
    )


def _cell(frame: Frame, version: str, row: HeatCellData | None, cells: list[dict[str, Any]]) -> HeatCell:
    if row is None:
        return HeatCell(level=None, shown="", fraction="", note="", index=None, label=text.NOT_MEASURED)
    n, hits = row.get("n"), row.get("successes")
    label = _label(row)
    cells.append(
        {"title": f"{version_title(version)}: {label}", "cases": _cases(frame, row), "found": _found(frame, row)}
    )
    index, note = len(cells) - 1, _note(row)
    if not n or hits is None:
        return HeatCell(level=None, shown="", fraction="", note=note, index=index, label=f"{label}: not measured{note}")
    bounds = text.interval(row.get("low"), row.get("high"))
    cells[-1]["note"] = f"{hits} of {n} behaviours" + (f", interval {bounds}" if bounds else "") + note
    return HeatCell(
        level=round(LEVELS * hits / n),
        shown=f"{100 * hits / n:.0f}",
        fraction=f"{hits}/{n}",
        note=note,
        index=index,
        label=f"{label}: {cells[-1]['note']}",
    )


def _found(frame: Frame, row: HeatCellData) -> list[list[str]]:
    """Findings of the cell: anchor, words."""
    wanted = (row["category"], row["attack"], row.get("language") or "")
    return [
        [text.anchor("f", f["id"]), f"{f['id']}, {f['status']}"]
        for f in frame.data.get("findings") or []
        if (f.get("category") or "", f.get("attack") or "", f.get("language") or "") == wanted
    ]


def _label(row: HeatCellData) -> str:
    where = f", {language_title(code)}" if (code := row.get("language")) else ""
    return f"{category_title(row['category'])} by {attack_title(row['attack'])}{where}"


def _note(row: HeatCellData) -> str:
    parts = [f"{n} {word}" for word in ("errored", "unscored") if (n := row.get(word))]
    return f", {', '.join(parts)}" if parts else ""


def _cases(frame: Frame, row: HeatCellData) -> list[str]:
    if row.get("cases") is not None:
        return list(row["cases"] or [])
    wanted = (row["category"], row["attack"], row.get("language") or "")
    return [
        i
        for i, t in (frame.data.get("transcripts") or {}).items()
        if (t.get("category") or "", t.get("attack") or "", t.get("language") or "") == wanted
    ]
