"""Preference data: conversations with a preferred and a rejected last answer, from JSONL (plain or gzip).

Two forms of a line: `{"prompt" or "messages", "chosen", "rejected"}`, or the transcripts of Bai et al. 2022
(arXiv:2204.05862), where `chosen` and `rejected` are whole dialogues of "Human:" and "Assistant:" turns.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivefold.align._pack import Item
from fivefold.align.data.tokens import encode_reply
from fivefold.errors import DataError
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Case, Message, digest, split_of

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A conversation up to where the assistant speaks, and two answers of which the first is preferred.

    `source` says who preferred it: a data set, or the principle that an AI label cites.
    """

    id: str
    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str = ""

    @property
    def split(self) -> str:
        """Train, dev or test: fixed by how the conversation opens, so that no opening is on both sides."""
        return split_of(self.messages[0].content)

    def case(self) -> Case:
        """The conversation as a case."""
        return Case(id=self.id, messages=self.messages)


def read_preferences(path: Path) -> tuple[Preference, ...]:
    """All pairs of a file; see `parse_preferences`."""
    if not path.is_file():
        raise DataError(f"{path} is not there", expected="a JSONL file of preferences")
    return parse_preferences(path.read_bytes(), path.name)


def parse_preferences(data: bytes, name: str) -> tuple[Preference, ...]:
    """All pairs, without repetitions and without pairs whose conversations differ or whose answers are equal.

    DataError for a line that is neither form, or when nothing is left.
    """
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
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
        chosen, rejected = str(row["chosen"]), str(row["rejected"])
        before, chosen, rejected = _asked(row, chosen, rejected)
    except (ValueError, KeyError, TypeError) as error:
        expected = '{"prompt": …, "chosen": …, "rejected": …} or two dialogues'
        raise DataError(
            f"{where} is no preference", expected=expected, got=f"{type(error).__name__}: {error}"
        ) from error
    if not before or before[-1].role != "user" or not chosen.strip() or not rejected.strip() or chosen == rejected:
        return None
    id = digest([[m.role, m.content] for m in before] + [chosen, rejected])[:16]
    return Preference(
        id=id, messages=before, chosen=chosen.strip(), rejected=rejected.strip(), source=str(row.get("source", ""))
    )


def _asked(row: Mapping[str, Any], chosen: str, rejected: str) -> tuple[tuple[Message, ...], str, str]:
    """The conversation and both answers; an empty conversation where the dialogues differ before the last turn."""
    if "messages" in row:
        return tuple(Message(role=m["role"], content=m["content"]) for m in row["messages"]), chosen, rejected
    if "prompt" in row:
        return (Message(role="user", content=str(row["prompt"])),), chosen, rejected
    first, second = _turns(chosen), _turns(rejected)
    if not first or first[:-1] != second[:-1] or {first[-1].role, second[-1].role} != {"assistant"}:
        return (), "", ""
    return first[:-1], first[-1].content, second[-1].content


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
    """Pairs as token ids; answers are cut, conversations longer than `prompt_tokens` are left out."""
    items = []
    for pair in preferences:
        prompt = tuple(model.encode(pair.messages))
        answers = tuple(encode_reply(model, text, answer_tokens) for text in (pair.chosen, pair.rejected))
        if len(prompt) <= prompt_tokens and answers[0] != answers[1]:
            items.append(Item(prompt=prompt, answers=answers, group=pair.source or "preference"))
    return items


def chosen_items(items: Sequence[Item]) -> list[Item]:
    """Only the preferred answers, for SFT."""
    return [Item(prompt=i.prompt, answers=i.answers[:1], group=i.group) for i in items]
