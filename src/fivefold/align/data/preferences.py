"""Preference data: conversations with a preferred and a rejected ending, from JSONL (plain or gzip).

Three forms of a line: `{"prompt" or "messages", "chosen", "rejected"}` with texts; the same with lists of messages, where
an ending has several turns (a tool call, the tool's result, the answer; a user who asks back) of which the assistant's
alone are learnt; or the transcripts of Bai et al. 2022 (arXiv:2204.05862), where `chosen` and `rejected` are whole dialogues
of "Human:" and "Assistant:" turns.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args

from fivefold.align._pack import Item
from fivefold.align.data.tokens import encode_reply, encode_turns
from fivefold.errors import DataError
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Case, Message, Role, digest, split_of

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}

Ending: TypeAlias = "str | tuple[Message, ...]"
"""An answer, or several turns of which the last is the assistant's."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A conversation up to where the assistant speaks, and two endings of which the first is preferred.

    `source` says who preferred it: a data set, or the principle that an AI label cites.
    """

    id: str
    messages: tuple[Message, ...]
    chosen: Ending
    rejected: Ending
    source: str = ""

    @property
    def split(self) -> str:
        """Train, dev or test: fixed by how the conversation opens, so that no opening is on both sides."""
        return split_of(self.messages[0].content)

    def case(self) -> Case:
        """The conversation as a case."""
        return Case(id=self.id, messages=self.messages)

    def texts(self) -> tuple[str, ...]:
        """What stands in both endings."""
        return tuple(m.content for ending in (self.chosen, self.rejected) for m in turns_of(ending))


def turns_of(ending: Ending) -> tuple[Message, ...]:
    """An ending as turns."""
    return (Message(role="assistant", content=ending),) if isinstance(ending, str) else ending


def read_preferences(path: Path) -> tuple[Preference, ...]:
    """All pairs of a file; see `parse_preferences`."""
    if not path.is_file():
        raise DataError(f"{path} is not there", expected="a JSONL file of preferences")
    return parse_preferences(path.read_bytes(), path.name)


def parse_preferences(data: bytes, name: str) -> tuple[Preference, ...]:
    """All pairs, without repetitions and without pairs whose conversations differ or whose endings are equal.

    DataError for a line that is none of the forms, for bytes that are no text, or when nothing is left.
    """
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{name} cannot be read", expected="JSONL, plain or gzip", got=error) from error
    found: dict[str, Preference] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and (pair := _pair(line, f"{name}:{number}")) is not None:
            found.setdefault(pair.id, pair)
    if not found:
        raise DataError(f"{name} holds no preferences", expected="one pair a line", got="nothing that can be used")
    return tuple(found.values())


def _pair(line: str, where: str) -> Preference | None:
    try:
        row = json.loads(line)
        before, chosen, rejected = _asked(row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = '{"prompt": …, "chosen": …, "rejected": …}, texts or lists of messages, or two dialogues'
        raise DataError(
            f"{where} is no preference", expected=expected, got=f"{type(error).__name__}: {error}"
        ) from error
    if not before or before[-1].role == "assistant" or not chosen or not rejected or chosen == rejected:
        return None
    content = [[[m.role, m.content] for m in turns] for turns in (before, turns_of(chosen), turns_of(rejected))]
    id = digest([*content[0], *(c[0][1] if len(c) == 1 else c for c in content[1:])])[:16]
    return Preference(id=id, messages=before, chosen=chosen, rejected=rejected, source=str(row.get("source", "")))


def _asked(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], Ending, Ending]:
    """The conversation and both endings; an empty conversation where the dialogues differ before the last turn."""
    chosen, rejected = row["chosen"], row["rejected"]
    if "messages" in row or "prompt" in row:
        before = row["messages"] if "messages" in row else row["prompt"]
        asked = (Message(role="user", content=before),) if isinstance(before, str) else _messages(before)
        return asked, _ending(chosen), _ending(rejected)
    if isinstance(chosen, list):
        return _parted(_messages(chosen), _messages(rejected))
    first, second = _turns(chosen), _turns(rejected)
    if not first or first[:-1] != second[:-1] or {first[-1].role, second[-1].role} != {"assistant"}:
        return (), "", ""
    return first[:-1], first[-1].content, second[-1].content


def _parted(first: Sequence[Message], second: Sequence[Message]) -> tuple[tuple[Message, ...], Ending, Ending]:
    """Two whole conversations, cut where the first turn differs, which must be the assistant's."""
    at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    return tuple(first[:at]), _ending_of(first[at:]), _ending_of(second[at:])


def _messages(value: Any) -> tuple[Message, ...]:
    found = tuple(Message(role=m["role"], content=m["content"]) for m in value)
    for message in found:
        if message.role not in get_args(Role) or not isinstance(message.content, str):
            raise ValueError(f"not a message: {message}")
    return found


def _ending(value: Any) -> Ending:
    return str(value).strip() if isinstance(value, str) else _ending_of(_messages(value))


def _ending_of(turns: Sequence[Message]) -> Ending:
    """Turns from the assistant's first to its last; one alone is a text, nothing is an empty one."""
    if not turns or turns[0].role != "assistant" or turns[-1].role != "assistant":
        if turns:
            raise ValueError("an ending begins and ends with the assistant's turn")
        return ""
    return turns[0].content.strip() if len(turns) == 1 else tuple(turns)


def _turns(dialogue: str) -> tuple[Message, ...]:
    parts = _TURN.split(dialogue)[1:]
    return tuple(
        Message(role=_ROLES[who], content=said.strip())  # type: ignore[arg-type]
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    )


def by_split(preferences: Iterable[Preference], split: str) -> list[Preference]:
    """The pairs of one split."""
    return [p for p in preferences if p.split == split]


def preference_items(
    model: WhiteBox, preferences: Sequence[Preference], *, prompt_tokens: int, answer_tokens: int
) -> list[Item]:
    """Pairs as token ids; endings are cut, conversations longer than `prompt_tokens` are left out. Of an ending of
    several turns the assistant's are learnt."""
    items = []
    for pair in preferences:
        prompt = tuple(model.encode(pair.messages))
        encoded = [_encoded(model, pair.messages, ending, answer_tokens) for ending in (pair.chosen, pair.rejected)]
        answers, marks = tuple(ids for ids, _ in encoded), tuple(mark for _, mark in encoded)
        if len(prompt) <= prompt_tokens and answers[0] != answers[1]:
            learnt = None if all(map(all, marks)) else marks
            items.append(Item(prompt=prompt, answers=answers, group=pair.source or "preference", learnt=learnt))
    return items


def _encoded(
    model: WhiteBox, messages: Sequence[Message], ending: Ending, limit: int
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    if isinstance(ending, str):
        ids = encode_reply(model, ending, limit)
        return ids, (True,) * len(ids)
    return encode_turns(model, messages, ending, limit)


def chosen_items(items: Sequence[Item]) -> list[Item]:
    """Only the preferred endings, for SFT."""
    return [i.only(0) for i in items]
