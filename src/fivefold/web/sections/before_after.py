"""Every metric before and after: one row a slice, one number a version, intervals drawn on a shared axis."""

from __future__ import annotations

from dataclasses import dataclass

from fivefold.web import text
from fivefold.web.names import METRICS, by_language, is_change, metric_note, metric_title, slice_title
from fivefold.web.sections.frame import Frame, Key, Number, span


@dataclass(frozen=True, kw_only=True)
class Row:
    """One slice. `limit` is the gate's threshold for exactly this row, `suite` and `language` name its transcripts."""

    title: str
    corrected: bool
    numbers: tuple[Number, ...]
    limit: float | None
    suite: str | None
    language: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """One metric, of one suite where its slices name one: rows for all cases and by language, and finer slices by what
    they are sliced by.

    `axis` labels the ends of `span`. `side`: shown folded, since another section tells the same or it is no rate.
    """

    title: str
    note: str
    better: str
    span: tuple[float, float]
    axis: tuple[str, str]
    side: bool
    rows: tuple[Row, ...]
    finer: tuple[tuple[str, tuple[Row, ...]], ...]


def view(frame: Frame) -> list[Group]:
    """Known metrics first, in their order, then the others."""
    order = list(METRICS)
    groups = list(dict.fromkeys((k.metric, _suite(k)) for k in frame.rows()))
    groups.sort(key=lambda g: order.index(g[0]) if g[0] in order else len(order))
    return [_group(frame, metric, suite) for metric, suite in groups]


def _suite(key: Key) -> str:
    return dict(key.slice).get("suite", "")


def _within(key: Key) -> dict[str, str]:
    """The slice inside its suite."""
    return {name: value for name, value in key.slice if name != "suite"}


def _group(frame: Frame, metric: str, suite: str) -> Group:
    keys = sorted((k for k in frame.rows() if (k.metric, _suite(k)) == (metric, suite)), key=_order)
    coarse = [k for k in keys if _within(k).keys() <= {"language"}]
    finer: dict[str, list[Key]] = {}
    for key in keys:
        if key not in coarse:
            finer.setdefault(_axis(key), []).append(key)
    if not coarse and finer:
        coarse = finer.pop(next(iter(finer)))
    rows = {k: _row(frame, k) for k in keys}
    numbers = [n for row in rows.values() for n in row.numbers]
    ends = span(numbers, *(r.limit for r in rows.values()))
    unit = frame.unit(metric)
    return Group(
        title=f"{metric_title(metric)} \u00b7 {suite}" if suite else metric_title(metric),
        note=metric_note(metric),
        better=next((n.better for n in numbers if n.better), "neither"),
        span=ends,
        axis=(_end(ends[0], metric, unit), _end(ends[1], metric, unit)),
        side=metric not in METRICS,
        rows=tuple(rows[k] for k in coarse),
        finer=tuple((axis, tuple(rows[k] for k in found)) for axis, found in finer.items()),
    )


def _end(value: float, metric: str, unit: str) -> str:
    if is_change(metric):
        return text.change(value, unit)
    return f"{100 * value:.0f}%" if unit == "proportion" else text.amount(value, unit)


def _row(frame: Frame, key: Key) -> Row:
    rule = None if key.corrected else frame.rules.get(key)
    limit = None if rule is None else rule["max"] if rule.get("max") is not None else rule.get("min")
    return Row(
        title=slice_title(_within(key)),
        corrected=key.corrected,
        numbers=tuple(frame.number(key, v) for v in frame.versions),
        limit=limit,
        suite=_transcripts(frame, key) if _within(key).keys() <= {"language"} else None,
        language=dict(key.slice).get("language", ""),
    )


def _transcripts(frame: Frame, key: Key) -> str | None:
    named = _suite(key)
    return frame.suite_of(key.metric) if not named else named if named in frame.suites else None


def _order(key: Key) -> tuple[int, tuple[tuple[str, int | str], ...], bool]:
    parts: list[tuple[str, int | str]] = []
    for name, value in key.slice:
        known = by_language(["en", "ko", "ja", value])
        parts.append((name, f"{known.index(value):03d}{value}" if name == "language" else value))
    return len(key.slice), tuple(parts), key.corrected


def _axis(key: Key) -> str:
    return "by " + " and ".join(_within(key))
