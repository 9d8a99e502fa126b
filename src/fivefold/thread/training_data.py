"""Training data before it is trained on: repetitions out, compared with what is measured, languages in turn, a datasheet.

`prepare` is the one way in for every recipe of `fivefold align`. What a suite or benchmark holds out is never trained on
unless the user says so, and the datasheet records that it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, Literal, TypeVar, get_args

from fivefold.align.data.contamination import Overlap, distinct, repeated
from fivefold.align.data.datasheet import Check, Datasheet, Origin
from fivefold.align.data.preferences import Preference
from fivefold.align.options import trained_weights
from fivefold.errors import DataError, UnknownNameError
from fivefold.evaluate.data import Source
from fivefold.evaluate.suites import suite, suite_names
from fivefold.guard.language import language_of_part
from fivefold.runtime.protocol import Model
from fivefold.types import Case, digest, digest_bytes

Policy = Literal["refuse", "drop", "keep"]
"""What follows when training data repeats held-out cases."""
SPLIT_SUITES = ("core-harms", "core-benign")
"""Suites whose train split is there to be trained on; of the others every case is held out."""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Row(Generic[R]):
    """One piece of training data as it is compared: `texts` are everything in it that a held-out prompt could stand in."""

    value: R
    id: str
    texts: tuple[str, ...]
    language: str
    trained: bool = True
    """False for rows that the recipe itself holds out: they may repeat a suite."""


@dataclass(frozen=True, kw_only=True)
class Prepared(Generic[R]):
    """Rows to train on (and those the recipe holds out), with what the datasheet says of them."""

    rows: tuple[R, ...]
    counts: Mapping[str, int]
    languages: Mapping[str, int]
    check: Check

    def sheet(
        self,
        recipe: str,
        model: Model,
        origins: Sequence[Origin],
        config: object = None,
        *,
        made: str = "",
        notes: Sequence[str] = (),
    ) -> Datasheet:
        """The datasheet; `config` is the recipe's, which says what is trained, where that is a language model."""
        return Datasheet(
            recipe=recipe,
            model=model.name,
            model_digest=model.fingerprint,
            origins=origins,
            counts=self.counts,
            languages=self.languages,
            contamination=self.check,
            rows=digest(list(self.rows)),
            made=made,
            trained=dict(trained_weights(config)),
            notes=notes,
        )


def prepare(
    rows: Sequence[Row[R]],
    *,
    policy: str = "refuse",
    limit: int | None = None,
    more: Mapping[str, Sequence[Case]] | None = None,
    kinds: Callable[[R], str] | None = None,
    alike: bool = False,
) -> Prepared[R]:
    """At most `limit` rows, the languages in turn, without near repetitions and without held-out cases.

    `more` names further held-out cases (a benchmark's test file). `kinds` names the kind that a kept row counts as.
    `alike` keeps near repetitions: lessons that teach one thing in many wordings are meant to be alike.
    DataError when trained rows repeat held-out cases and the policy is `refuse`, or when nothing is left.
    """
    if policy not in get_args(Policy):
        raise UnknownNameError("policy for contaminated data", policy, get_args(Policy))
    chosen = in_turn(rows, limit)
    counts = {"read": len(rows), "left out by the limit": len(rows) - len(chosen)}
    kept = chosen if alike else _distinct(chosen, kinds or (lambda value: ""))
    counts["near repetitions left out"] = len(chosen) - len(kept)
    held = {
        **held_out_suites(),
        **{name: [(c.id, last_block(c)) for c in cases] for name, cases in (more or {}).items()},
    }
    found = repeated([(r.id, r.texts) for r in kept if r.trained], [text for texts in held.values() for text in texts])
    if found and policy == "refuse":
        raise contaminated(found)
    if policy == "drop":
        dirty = {o.trained for o in found}
        kept = [r for r in kept if r.id not in dirty]
        counts["left out for repeating held-out cases"] = len(dirty)
    if not kept:
        raise DataError("no training data is left", got=", ".join(f"{n} {name}" for name, n in counts.items()))
    counts |= Counter(kinds(r.value) for r in kept) if kinds else {"trained on": len(kept)}
    return Prepared(
        rows=tuple(r.value for r in kept),
        counts=counts,
        languages=dict(Counter(r.language for r in kept).most_common()),
        check=Check(
            against={name: len(texts) for name, texts in held.items()},
            digest=digest([list(text) for texts in held.values() for text in texts]),
            policy=policy,
            found=[{"row": o.trained, "held_out": o.held_out, "similarity": o.similarity} for o in found],
        ),
    )


def _distinct(rows: Sequence[Row[R]], kind: Callable[[R], str]) -> list[Row[R]]:
    """Without near repetitions of the same kind: a harmful request and its look-alike may differ in one word."""
    of_kind: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        of_kind.setdefault(kind(row.value), []).append(i)
    kept = [p[j] for p in of_kind.values() for j in distinct(["\n".join(rows[i].texts) for i in p])]
    return [rows[i] for i in sorted(kept)]


def held_out_suites() -> dict[str, list[tuple[str, str]]]:
    """(id, prompt) of what the shipped suites measure on: dev and test where they have a train split, else everything."""
    return {
        name: [(c.id, c.prompt) for c in suite(name).cases() if name not in SPLIT_SUITES or c.split != "train"]
        for name in suite_names()
    }


def last_block(case: Case) -> str:
    """A prompt without the worked examples or the instruction in front."""
    return case.prompt.rsplit("\n\n", 1)[-1]


def contaminated(found: Sequence[Overlap]) -> DataError:
    """The error for training data that repeats held-out cases."""
    return DataError(
        f"{len(found)} rows of the training data repeat held-out cases of what is measured",
        expected="data on which nothing is measured",
        got=", ".join(f"{o.trained} = {o.held_out} ({o.similarity:.2f})" for o in found[:5]),
        next_step="--contaminated drop leaves these rows out; --contaminated keep trains on them and records it",
    )


def in_turn(rows: Sequence[Row[R]], limit: int | None) -> list[Row[R]]:
    """The first `limit` rows, one language after the other as long as each lasts, in their old order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    queues = {k: [i for i, r in enumerate(rows) if r.language == k] for k in dict.fromkeys(r.language for r in rows)}
    dealt = (q[place] for place in range(len(rows)) for q in queues.values() if place < len(q))
    return [rows[i] for i in sorted(islice(dealt, limit))]


def preference_rows(pairs: Sequence[Preference]) -> list[Row[Preference]]:
    """Pairs as rows, in the order of their ids. Those of the train split whose conversation opens nearly like one of
    another split are left out: the reward model is measured on that one."""
    ordered = sorted(pairs, key=lambda p: p.id)
    trained = [(p.id, (p.messages[0].content,)) for p in ordered if p.split == "train"]
    others = [(p.id, p.messages[0].content) for p in ordered if p.split != "train"]
    twins = {o.trained for o in repeated(trained, others)}
    return [
        Row(
            value=p,
            id=p.id,
            texts=(*(m.content for m in p.messages), *p.texts()),
            language=language_of_part(p.messages[-1].content),
            trained=p.split == "train",
        )
        for p in ordered
        if p.id not in twins
    ]


def case_rows(cases: Sequence[Case]) -> list[Row[Case]]:
    """Cases as rows; of a prompt with worked examples or an instruction in front, the last block alone is compared."""
    return [
        Row(
            value=c,
            id=c.id,
            texts=(*(m.content for m in c.messages[:-1]), last_block(c)),
            language=c.language,
        )
        for c in cases
    ]


def file_origin(path: Path) -> Origin:
    """A user's own file, by its hash."""
    return Origin(name=path.name, where="the user's own file", files={path.name: digest_bytes(path.read_bytes())})


def source_origin(source: Source, file: str, data: bytes) -> Origin:
    """A mirrored data set."""
    where = f"{source.origin}; {source.hub}"
    return Origin(name=source.folder, where=where, licence=source.licence, files={file: digest_bytes(data)})


def shipped_origin(name: str, rows: Sequence[Case]) -> Origin:
    """Cases that ship with the package; their digest stands for a file's."""
    content = digest([[c.id, c.prompt] for c in rows])
    return Origin(name=name, where="written for fivefold, shipped with it", licence="Apache-2.0", files={name: content})
