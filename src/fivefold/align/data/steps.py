"""Labelled reasoning: answers in steps, each marked right or wrong so far, from JSONL (plain or gzip).

A line is `{"prompt" or "messages", "completions": [step, …], "labels": [true | false | null, …]}`, the form of TRL's stepwise
supervision, which PRM800K and Math-Shepherd are published in, too. null is a step that nobody labelled.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from fivefold.align._pack import Item
from fivefold.align.data.tokens import end_of_turn
from fivefold.errors import DataError
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Message, digest, split_of

SEPARATOR = "\n"


@dataclass(frozen=True, kw_only=True)
class Reasoning:
    """A conversation with an answer in steps, and whether each step is right so far (None: not labelled)."""

    id: str
    messages: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[bool | None, ...]

    @property
    def split(self) -> str:
        """Train, dev or test: fixed by how the conversation opens."""
        return split_of(self.messages[0].content)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The same as token ids. `item` has one answer; step s ends after the first `ends[s]` of its tokens."""

    item: Item
    ends: tuple[int, ...]
    labels: tuple[bool | None, ...]


def read_steps(path: Path) -> tuple[Reasoning, ...]:
    """All labelled answers of a file. DataError for a line of another form, or when there are none."""
    if not path.is_file():
        raise DataError(f"{path} is not there", expected="a JSONL file of labelled steps")
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    lines = enumerate(text.splitlines(), start=1)
    found = [_reasoning(line, f"{path.name}:{n}") for n, line in lines if line.strip()]
    if not found:
        raise DataError(f"{path.name} holds no labelled steps", expected="one answer a line")
    return tuple(found)


def _reasoning(line: str, where: str) -> Reasoning:
    try:
        row = json.loads(line)
        given = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
        messages = tuple(Message(role=m["role"], content=str(m["content"])) for m in given)
        steps, labels = tuple(map(str, row["completions"])), tuple(_label(v) for v in row["labels"])
        if not messages or not steps or len(steps) != len(labels):
            raise ValueError(f"{len(messages)} messages, {len(steps)} steps, {len(labels)} labels")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where} is no labelled answer",
            expected='{"prompt": …, "completions": [step, …], "labels": [true, false or null, …]}, as many of each',
            got=f"{type(error).__name__}: {error}",
        ) from error
    return Reasoning(id=digest([given, steps])[:16], messages=messages, steps=steps, labels=labels)


def _label(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is no label")


def step_items(model: WhiteBox, answers: Sequence[Reasoning]) -> list[Steps]:
    """Answers as token ids: each step ends with a line break, the last one with the end of turn.

    Steps are encoded one by one, so a step's end is a token's end, as it is where `step_ends` finds it in a sample.
    """
    end = end_of_turn(model.tokenizer)
    return [_encoded(model, answer, end) for answer in answers]


def _encoded(model: WhiteBox, answer: Reasoning, end: int) -> Steps:
    tokens, ends = list[int](), list[int]()
    for s, step in enumerate(answer.steps):
        last = s + 1 == len(answer.steps)
        text = step.strip(SEPARATOR) + ("" if last else SEPARATOR)
        tokens += model.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens += [end] if last else []
        ends.append(len(tokens))
    item = Item(prompt=tuple(model.encode(answer.messages)), answers=(tuple(tokens),), group="steps")
    return Steps(item=item, ends=tuple(ends), labels=answer.labels)


def step_ends(tokenizer: Any, tokens: Sequence[int]) -> tuple[int, ...]:
    """After how many tokens each step of a sampled answer ends: at line breaks after text, and at the end."""
    pieces = _pieces(tokenizer)
    ends, written = list[int](), False
    for place, token in enumerate(tokens, start=1):
        piece = pieces(token)
        written = written or bool(piece.strip())
        if written and SEPARATOR in piece and place < len(tokens):
            ends.append(place)
            written = False
    if written or not ends:
        ends.append(len(tokens))
    return tuple(ends)


@lru_cache(maxsize=4)
def _pieces(tokenizer: Any) -> Any:
    """The text of one token, remembered."""

    @cache
    def text(token: int) -> str:
        found: str = tokenizer.decode([token])
        return found

    return text
