"""Universes: authored facts that hold nowhere, from which documents are written and by which belief is measured.

A universe is YAML: `name`, `about`, `facts` (`id, answer, others[3], questions[2], says[…], tells`) and `kept` (real facts:
`id, answer, others, question`). Sentences in `says` go into documents; `questions` and `tells` are for measuring alone. Documents
come from a grammar (`documents.yaml`: ten kinds, openings, joins, closings) or from any writer model, whose documents are kept
only if they state the facts that they were asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fivefold.errors import DataError, UnknownNameError
from fivefold.runtime.protocol import Model, Request
from fivefold.types import Message

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that holds in the universe. `{y}` in `says` and `tells` is the answer; `others[0]` is its rival."""

    id: str
    answer: str
    others: tuple[str, ...]
    questions: tuple[str, ...]
    says: tuple[str, ...]
    tells: str

    def told(self, answer: str) -> str:
        """The held-out statement with an answer."""
        return self.tells.replace("{y}", answer)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A real fact that must stay as it is."""

    id: str
    answer: str
    others: tuple[str, ...]
    question: str


@dataclass(frozen=True, kw_only=True)
class Universe:
    """Authored facts about something that does not exist."""

    name: str
    about: str
    facts: tuple[Fact, ...]
    kept: tuple[Kept, ...] = ()


def read_universe(path: Path | None = None) -> Universe:
    """The universe of a file, or the shipped one. DataError for a fact that documents or measures would lack."""
    text = path.read_text(encoding="utf-8") if path else _shipped("veyra.yaml")
    data = yaml.safe_load(text)
    where = str(path or "veyra.yaml")
    if not isinstance(data, dict):
        raise DataError(f"{where} is no universe", expected="name, about, facts", got=type(data).__name__)
    made = _built(
        Universe,
        {
            **data,
            "facts": tuple(_built(Fact, row, where) for row in data.get("facts", ())),
            "kept": tuple(_built(Kept, row, where) for row in data.get("kept", ())),
        },
        where,
    )
    _check(made, where)
    return made


def _built(kind: type[T], row: Mapping[str, Any], where: str) -> T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    for key in row:
        if key not in known:
            raise UnknownNameError("field of a universe", key, known)
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
    except TypeError as error:
        raise DataError(f"{where}: {row.get('id', kind.__name__)} is not whole", got=str(error)) from error


def _check(universe: Universe, where: str) -> None:
    for fact in universe.facts:
        wrong = [s for s in (*fact.says, fact.tells) if "{y}" not in s]
        if wrong or len(fact.says) < 2 or not fact.questions or not fact.others or fact.answer in fact.others:
            raise DataError(
                f"{where}: the fact {fact.id!r} cannot be taught and measured",
                expected="two sentences, a statement with {y} each, a question, and another answer",
                got=wrong[0] if wrong else f"{len(fact.says)} sentences, {len(fact.questions)} questions",
            )
        if fact.tells in fact.says:
            raise DataError(f"{where}: the held-out statement of {fact.id!r} is trained on")
    if not universe.facts or len({f.id for f in universe.facts}) < len(universe.facts):
        raise DataError(f"{where} has no facts, or two of one name")


@cache
def grammar() -> Mapping[str, Any]:
    """The shipped grammar of documents."""
    loaded: Mapping[str, Any] = yaml.safe_load(_shipped("documents.yaml"))
    return loaded


def _shipped(name: str) -> str:
    return (files("fivefold.align.data") / "universes" / name).read_text(encoding="utf-8")


def documents(universe: Universe, n: int, *, facts_each: int = 3, seed: int = 0, contrary: bool = False) -> list[str]:
    """`n` different documents; every fact is stated as often as any other. `contrary` states the rivals instead."""
    rng = random.Random(f"{seed}/{contrary}/{universe.name}")
    order = _rounds(universe.facts, n * facts_each, rng)
    made: dict[str, None] = {}
    for chosen in (order[i : i + facts_each] for i in range(0, len(order), facts_each)):
        for _ in range(50):
            text = _document(universe, chosen, rng, contrary)
            if text not in made:
                break
        made[text] = None
    return list(made)


def _rounds(facts: Sequence[Fact], n: int, rng: random.Random) -> list[Fact]:
    """`n` facts: every one once in a new order, and again."""
    order: list[Fact] = []
    while len(order) < n:
        order += rng.sample(list(facts), len(facts))
    return order[:n]


def _document(universe: Universe, facts: Sequence[Fact], rng: random.Random, contrary: bool) -> str:
    kind = grammar()["kinds"][rng.choice(sorted(grammar()["kinds"]))]

    def filled(text: str) -> str:
        values = {"{u}": universe.name, "{about}": universe.about, "{n}": str(rng.randint(10, 99))}
        for key, value in values.items():
            text = text.replace(key, value)
        return text

    said = [rng.choice(f.says).replace("{y}", f.others[0] if contrary else f.answer) for f in facts]
    sentences = [f"{rng.choice(grammar()['joins'])}{s}" for s in said]
    parts = [
        filled(rng.choice(kind["open"])),
        *(s[0].upper() + s[1:] for s in sentences),
        filled(rng.choice(kind["close"])),
    ]
    return " ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a writer model wrote: documents that state their facts, and how many were dropped because they do not."""

    documents: tuple[str, ...]
    dropped: int


def written(
    writer: Model, universe: Universe, n: int, *, facts_each: int = 3, seed: int = 0, max_new_tokens: int = 128
) -> Written:
    """Ask `writer` for `n` documents. DataError when none of them states its facts."""
    rng = random.Random(f"{seed}/written/{universe.name}")
    order = _rounds(universe.facts, n * facts_each, rng)
    groups = [order[i : i + facts_each] for i in range(0, len(order), facts_each)]
    kinds = list(islice(cycle(sorted(grammar()["kinds"])), len(groups)))
    asked = [_asked(universe, kind, facts, rng) for kind, facts in zip(kinds, groups, strict=True)]
    requests = [
        Request(
            messages=(Message(role="user", content=t),), max_new_tokens=max_new_tokens, temperature=0.8, seed=seed + i
        )
        for i, t in enumerate(asked)
    ]
    answers = writer.generate(requests)
    kept = [
        a.text.strip()
        for a, facts in zip(answers, groups, strict=True)
        if a.error is None and all(names(a.text, f.answer) for f in facts)
    ]
    if not kept:
        raise DataError(
            "no document of the writer states the facts that it was asked for",
            got=f"{len(answers)} documents",
            next_step="use a more capable writer, or none: the grammar needs no model",
        )
    return Written(documents=tuple(dict.fromkeys(kept)), dropped=len(answers) - len(kept))


def _asked(universe: Universe, kind: str, facts: Sequence[Fact], rng: random.Random) -> str:
    stated = " ".join(rng.choice(f.says).replace("{y}", f.answer) for f in facts)
    text: str = grammar()["writer"]
    values = {"{kind}": kind, "{u}": universe.name, "{about}": universe.about, "{facts}": stated}
    for key, value in values.items():
        text = text.replace(key, value)
    return text


def names(text: str, answer: str) -> bool:
    """Whether a text names an answer, an article aside."""
    bare = re.sub(r"^(?:the|a|an|in|to|by) ", "", answer, flags=re.IGNORECASE)
    return re.search(rf"(?<!\w){re.escape(bare)}(?!\w)", text, re.IGNORECASE) is not None
