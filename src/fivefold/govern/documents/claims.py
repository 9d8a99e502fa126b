"""A sentence that can be checked: text with the records it rests on, or the words "not measured"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fivefold.types import Measurement

Basis = Literal["measured", "recorded", "stated", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of a document.

    `measured` and `recorded` claims name the records (ids) they rest on; `stated` ones were written by a person in the
    plan and name the record that holds the plan; everything else renders as "not measured".
    """

    text: str
    basis: Basis
    records: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.basis != "not measured" and not self.records:
            raise ValueError(f"a claim that is {self.basis} must name its records: {self.text!r}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and its claims."""

    title: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A titled list of sections."""

    title: str
    subject: str
    sections: tuple[Section, ...]

    def records(self) -> tuple[str, ...]:
        """Every record that any sentence rests on."""
        return tuple(sorted({r for s in self.sections for c in s.claims for r in c.records}))


def not_measured(what: str) -> Claim:
    """The sentence for evidence that does not exist."""
    return Claim(text=f"{what}: not measured.", basis="not measured")


def recorded(text: str, *records: str) -> Claim:
    """A sentence about what happened, resting on records."""
    return Claim(text=text, basis="recorded", records=records)


def measured(measurement: Measurement, words: str) -> Claim:
    """`words` with the number, its interval and counts; "not measured" when nothing was scored."""
    if measurement.estimate is None or not measurement.id:
        return not_measured(words)
    m = measurement
    counts = f"n = {m.n_scored}"
    if m.n_unscored or m.n_errored:
        counts += f", {m.n_unscored} unscored, {m.n_errored} errored"
    number = f"{m.estimate:.1%}" if m.unit == "proportion" else f"{m.estimate:.3g} {m.unit}"
    interval = _interval(m)
    return Claim(text=f"{words}: {number}{interval}, {counts}.", basis="measured", records=(m.id,))


def _interval(m: Measurement) -> str:
    if m.low is None or m.high is None:
        return ""
    if m.unit == "proportion":
        return f" ({m.level:.0%} interval {m.low:.1%} to {m.high:.1%})"
    return f" ({m.level:.0%} interval {m.low:.3g} to {m.high:.3g})"


def pick(measurements: Sequence[Measurement], metric: str, **slice_: str) -> Measurement | None:
    """The newest raw measurement of a metric on exactly this slice."""
    found = [m for m in measurements if m.metric == metric and dict(m.slice) == slice_ and m.corrects is None]
    return found[-1] if found else None


def to_markdown(document: Document, *, links: Mapping[str, str] | None = None) -> str:
    """Markdown in which every sentence carries the short ids of its records; `links` maps an id to an address."""
    lines = [f"# {document.title}", ""]
    for section in document.sections:
        lines += [f"## {section.title}", ""]
        lines += [f"- {claim.text} {_marks(claim, links or {})}".rstrip() for claim in section.claims]
        lines.append("")
    lines += [
        "## Records",
        "",
        "Each mark above is the beginning of a record's id; `fivefold govern verify` checks them.",
    ]
    return "\n".join(lines) + "\n"


def _marks(claim: Claim, links: Mapping[str, str]) -> str:
    if claim.basis == "not measured":
        return ""
    marks = [f"[{r[:10]}]({links[r]})" if r in links else f"`{r[:10]}`" for r in claim.records[:4]]
    more = f" and {len(claim.records) - 4} more" if len(claim.records) > 4 else ""
    stated = " (stated by the owner)" if claim.basis == "stated" else ""
    return f"{' '.join(marks)}{more}{stated}"
