"""What the sections share: the versions in order, the newest measurement of everything, and a number as it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fivefold.web import text
from fivefold.web.data import MeasurementData, ReportData, RuleData, part
from fivefold.web.names import SUITES, is_change

VERSIONS = ("base", "patched", "guarded", "patched+guarded")
SliceKey: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Number:
    """One measurement as the page shows it. `better` says which direction is safer."""

    version: str
    shown: str
    interval: str
    counts: str
    anchor: str
    estimate: float | None
    low: float | None
    high: float | None
    better: str


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a row of numbers is about. `corrected`: for the judge's measured error."""

    metric: str
    slice: SliceKey = ()
    corrected: bool = False


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The data, indexed once."""

    data: ReportData
    versions: tuple[str, ...]
    chosen: str
    newest: Mapping[tuple[Key, str], MeasurementData]
    rules: Mapping[Key, RuleData]
    suites: frozenset[str]

    def rows(self) -> list[Key]:
        """Every measured row once, in the order of the data."""
        return list(dict.fromkeys(key for key, _ in self.newest))

    def number(self, key: Key, version: str) -> Number:
        """The newest measurement of a row for one version, "not measured" where there is none."""
        found = self.newest.get((key, version))
        return unmeasured(version) if found is None else number_of(found, version)

    @property
    def level(self) -> str:
        """The level of the intervals: `95%`, or all of them where measurements differ."""
        levels = sorted({m.get("level") or 0.95 for m in self.newest.values()}) or [0.95]
        return " and ".join(f"{100 * level:g}%" for level in levels)

    def unit(self, metric: str) -> str:
        """The unit of a metric's measurements."""
        units = (m.get("unit") for key, m in self.newest.items() if key[0].metric == metric)
        return next((u for u in units if u), "proportion")

    def suite_of(self, metric: str) -> str | None:
        """The suite whose transcripts show what a metric counted, if they are in the report."""
        named = next((c["suite"] for c in self.data.get("comparisons") or [] if c["metric"] == metric), None)
        suite = named or SUITES.get(metric)
        return suite if suite in self.suites else None


def frame(data: ReportData) -> Frame:
    """Index the data."""
    versions = _versions(data)
    by_print = {v["fingerprint"]: v["name"] for v in data.get("versions") or [] if v.get("fingerprint")}
    newest: dict[tuple[Key, str], MeasurementData] = {}
    for m in data.get("measurements") or []:
        name = m.get("subject_name") or ""
        if name not in versions:
            name = by_print.get(m.get("subject") or "", name)
        key = Key(metric=m["metric"], slice=slice_key(m.get("slice")), corrected=bool(m.get("corrects")))
        newest[key, name] = m
    rules = part(data.get("gate_file")).get("rules") or []
    return Frame(
        data=data,
        versions=versions,
        chosen=part(data.get("decision")).get("subject_name") or "",
        newest=newest,
        rules={Key(metric=r.get("metric") or "", slice=slice_key(r.get("slice"))): r for r in rules},
        suites=frozenset(t.get("suite") or "" for t in (data.get("transcripts") or {}).values()),
    )


def slice_key(slice_: Mapping[str, str] | None) -> SliceKey:
    """A slice as a value that can be compared."""
    return tuple(sorted((slice_ or {}).items()))


def unmeasured(version: str) -> Number:
    """The number that does not exist."""
    nothing = text.NOT_MEASURED
    return Number(
        version=version, shown=nothing, interval="", counts="", anchor="", estimate=None, low=None, high=None, better=""
    )


def number_of(m: MeasurementData, version: str) -> Number:
    """A measurement as it is shown. Nothing scored is "not measured", with the counts that say why."""
    unit, signed = m.get("unit") or "proportion", is_change(m["metric"])
    estimate, low, high = m.get("estimate"), m.get("low"), m.get("high")
    return Number(
        version=version,
        shown=text.change(estimate, unit) if signed else text.amount(estimate, unit),
        interval="" if estimate is None else text.interval(low, high, unit, signed=signed),
        counts=counts(m),
        anchor=text.anchor("m", identity) if (identity := m.get("id")) else "",
        estimate=estimate,
        low=low,
        high=high,
        better=m.get("safer") or "neither",
    )


def counts(m: MeasurementData) -> str:
    """`n = 90, 2 unscored, 1 errored`."""
    parts = [f"n = {text.count(m['n_scored'] or 0)}"] if m.get("n_scored") is not None else []
    parts += [f"{n} unscored"] if (n := m.get("n_unscored")) else []
    parts += [f"{n} errored"] if (n := m.get("n_errored")) else []
    return ", ".join(parts)


def span(numbers: Iterable[Number], *more: float | None) -> tuple[float, float]:
    """The axis that holds all intervals: 0 to 1 for shares, else round ends around them with zero inside."""
    ends = [x for n in numbers for x in (n.estimate, n.low, n.high) if x is not None]
    ends += [x for x in more if x is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    reach = max(abs(low), abs(high)) * 1.15
    return (-reach if low < 0 else 0.0), reach


def _versions(data: ReportData) -> tuple[str, ...]:
    named = [v["name"] for v in data.get("versions") or []]
    if not named:
        named = [n for m in data.get("measurements") or [] if (n := m.get("subject_name"))]
    order = {v: i for i, v in enumerate(VERSIONS)}
    return tuple(sorted(dict.fromkeys(named), key=lambda v: order.get(v, len(order)))) or VERSIONS
