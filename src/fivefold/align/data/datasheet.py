"""The datasheet of a training set: where it comes from, under which licence, what was left out and why, what is in it.

Every recipe writes one beside its adapter before it trains (`datasheet.json`, and `datasheet.md` for people), so that what a
model version was made of can be read even where the run was broken off. Questions after Gebru et al. 2021 ("Datasheets for
Datasets", arXiv:1803.09010), those that a program can answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fivefold.align import _checkpoint
from fivefold.types import plain

NOT_STATED = "not stated"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One source. `files` gives the SHA-256 of each file that was read."""

    name: str
    where: str
    licence: str = NOT_STATED
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Check:
    """What training data was compared with, and what was found. `found` names the held-out cases that were repeated."""

    against: Mapping[str, int]
    """Suite or benchmark -> how many of its held-out cases."""
    digest: str
    """Digest of these cases."""
    policy: str
    """`refuse`, `drop` (repeats were left out) or `keep` (trained on all the same)."""
    found: Sequence[Mapping[str, object]] = ()


@dataclass(frozen=True, kw_only=True)
class Datasheet:
    """What a recipe trains on. `counts` go from what was read to what is trained on; `languages` count rows that are
    trained on or held out; `made` says what is generated in the course of the recipe and by which model."""

    recipe: str
    model: str
    model_digest: str
    origins: Sequence[Origin]
    counts: Mapping[str, int]
    languages: Mapping[str, int]
    contamination: Check
    rows: str
    """Digest of the rows that are kept."""
    made: str = ""
    trained: Mapping[str, str] = field(default_factory=dict)
    """Stage -> what it trains with this: all weights, or an adapter."""
    notes: Sequence[str] = ()

    def summary(self) -> str:
        """One line: how much of what, from where."""
        counts = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        languages = ", ".join(f"{k} {n / max(1, sum(self.languages.values())):.0%}" for k, n in self.languages.items())
        sources = ", ".join(f"{o.name} ({o.licence})" for o in self.origins)
        return f"data: {sources}; {counts}; languages: {languages or 'none'}"

    def markdown(self) -> str:
        """The same for people."""
        check = self.contamination
        lines = [
            f"# Datasheet: training data of `{self.recipe}` on {self.model}",
            "",
            f"Model `{self.model_digest}`, rows `{self.rows}`.",
            "",
            "| source | where | licence | file | SHA-256 |",
            "|---|---|---|---|---|",
        ]
        for origin in self.origins:
            files = origin.files or {"": ""}
            lines += [f"| {origin.name} | {origin.where} | {origin.licence} | {f} | `{h}` |" for f, h in files.items()]
        lines += ["", *(f"- trained in `{stage}`: {what}" for stage, what in self.trained.items())]
        lines += ["", *(f"- {name}: {n}" for name, n in self.counts.items())]
        lines += [f"- in {language}: {n}" for language, n in self.languages.items()]
        against = ", ".join(f"{name} ({n})" for name, n in check.against.items())
        lines += ["", f"Contamination ({check.policy}): {len(check.found)} rows repeat held-out cases of {against}."]
        lines += [f"- {f['row']} repeats {f['held_out']} ({f['similarity']:.2f})" for f in check.found]
        lines += ["", f"Made in the course of the recipe: {self.made}"] if self.made else []
        lines += ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"

    def write(self, out: Path) -> Mapping[str, Path]:
        """Leave both forms in `out`; returns them by name."""
        _checkpoint.write_json(out / "datasheet.json", plain(self))
        text = self.markdown().encode()
        _checkpoint.write_atomic(out / "datasheet.md", lambda handle: handle.write(text))
        return {"datasheet": out / "datasheet.json"}
