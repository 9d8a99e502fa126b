"""The constitution as data: principles with the words in which a model is asked to apply them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from fivefold.errors import DataError, UnknownNameError
from fivefold.types import digest

EXAMPLES = ("breaks", "keeps")


@dataclass(frozen=True, kw_only=True)
class Principle:
    """One idea, and how a model is asked to criticise, revise and compare by it."""

    id: str
    text: str
    critique: str
    revision: str
    question: str
    breaks: tuple[str, ...] = ()
    """Requests that go against it."""
    keeps: tuple[str, ...] = ()
    """Harmless requests of the same form, in the same order."""


@dataclass(frozen=True, kw_only=True)
class Constitution:
    """A versioned list of principles."""

    name: str
    version: str
    principles: tuple[Principle, ...]

    @property
    def digest(self) -> str:
        """SHA-256 hex over everything in it."""
        return digest(self)

    def cite(self, principle: Principle) -> str:
        """How a label names what it rests on: `id@version`."""
        return f"{principle.id}@{self.version}"

    def for_case(self, case_id: str, turn: int = 0) -> Principle:
        """The principle applied to a case, fixed by its id; another one for each `turn`."""
        place = int(digest(case_id)[:8], 16) + turn
        return self.principles[place % len(self.principles)]


def load_constitution(path: Path | None = None) -> Constitution:
    """The constitution in a YAML file, or the one that ships with the package. DataError where it is malformed."""
    shipped = files("fivefold.align.data") / "constitution.yaml"
    where = "the shipped constitution" if path is None else str(path)
    try:
        text = shipped.read_text(encoding="utf-8") if path is None else path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        principles = tuple(_principle(row, where) for row in data["principles"])
        made = Constitution(name=str(data["name"]), version=str(data["version"]), principles=principles)
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        expected = "name, version, and principles with id, text, critique, revision, question"
        raise DataError(f"{where} cannot be read", expected=expected, got=f"{type(error).__name__}: {error}") from error
    ids = [p.id for p in principles]
    if not ids or len(set(ids)) < len(ids):
        raise DataError(f"{where}: principles need ids of their own", got=", ".join(ids) or "none")
    return made


def _principle(row: Mapping[str, Any], where: str) -> Principle:
    known = [f.name for f in fields(Principle)]
    if unknown := [k for k in row if k not in known]:
        raise UnknownNameError(f"key of a principle in {where}", unknown[0], known)
    texts = [k for k in known if k not in EXAMPLES]
    if missing := [k for k in texts if not str(row.get(k) or "").strip()]:
        raise DataError(f"{where}: a principle lacks {missing[0]!r}", expected=", ".join(texts), got=str(row.get("id")))
    examples = {k: tuple(str(x).strip() for x in row.get(k) or ()) for k in EXAMPLES}
    if len(examples["breaks"]) != len(examples["keeps"]):
        raise DataError(
            f"{where}: {row['id']}: as many requests that keep a principle as that break it are needed",
            got=f"{len(examples['breaks'])} and {len(examples['keeps'])}",
        )
    given: dict[str, Any] = {**{k: str(row[k]) for k in texts}, **examples}
    return Principle(**given)
