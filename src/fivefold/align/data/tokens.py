"""From examples as text to items as token ids, with the end of an answer as the model's chat template writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fivefold.align._pack import Item
from fivefold.align.data.pairs import Example, Reply
from fivefold.errors import DataError
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Message


def single_items(model: WhiteBox, examples: Sequence[Example], limit: int) -> list[Item]:
    """Items with the chosen answer alone, for SFT. Answers are cut to `limit` tokens."""
    encode = _Encoder(model, limit)
    return [
        Item(prompt=encode.prompt(e), answers=(encode.reply(e.chosen),), group=e.group, twin=e.behaviour)
        for e in examples
    ]


def pair_items(model: WhiteBox, examples: Sequence[Example], limit: int) -> list[Item]:
    """Items with chosen and rejected answer, for preference losses; examples without a rejected answer are left out."""
    encode = _Encoder(model, limit)
    return [
        Item(
            prompt=encode.prompt(e),
            answers=(encode.reply(e.chosen), encode.reply(e.rejected)),
            group=e.group,
            twin=e.behaviour,
        )
        for e in examples
        if e.rejected is not None
    ]


class _Encoder:
    def __init__(self, model: WhiteBox, limit: int) -> None:
        self.model, self.limit, self.end = model, limit, end_of_turn(model.tokenizer)

    def prompt(self, example: Example) -> tuple[int, ...]:
        return tuple(self.model.encode(example.messages, prefill=example.prefill))

    def reply(self, reply: Reply) -> tuple[int, ...]:
        """Tokens of an answer; the end of turn belongs to it only if the whole answer is there."""
        ids: list[int] = self.model.tokenizer(reply.text, add_special_tokens=False)["input_ids"]
        whole = reply.ended and len(ids) < self.limit
        return (*ids, self.end) if whole else tuple(ids[: self.limit])


def encode_reply(model: WhiteBox, text: str, limit: int) -> tuple[int, ...]:
    """Tokens of a whole answer with its end of turn, cut to `limit`."""
    return _Encoder(model, limit).reply(Reply(text=text))


def encode_turns(
    model: WhiteBox, messages: Sequence[Message], turns: Sequence[Message], limit: int
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Tokens of several turns after a conversation, cut to `limit`, and which of them the assistant wrote (its text and
    the end of its turn): a tool's result and a user's reply are context and are not learnt.

    Each turn is encoded as at inference: what the chat template puts between two answers of the assistant, then the
    answer. DataError where the template rewrites earlier turns when later ones follow, so that this cannot be done.
    """
    said, ids, learnt = list(messages), list[int](), list[bool]()
    before = model.tokenizer.apply_chat_template(_plain(said), add_generation_prompt=True, tokenize=False)
    end = end_of_turn(model.tokenizer)
    for turn in turns:
        if turn.role == "assistant":
            whole = model.tokenizer.apply_chat_template(_plain(said), add_generation_prompt=True, tokenize=False)
            if not whole.startswith(before):
                raise DataError(
                    "the model's chat template rewrites earlier turns when later ones follow",
                    expected="a template that only adds to what is there",
                    next_step="use preferences about the last answer alone",
                )
            between = _ids(model, whole[len(before) :])
            if ids and between[:1] == [end]:
                between = between[1:]
            own = [*_ids(model, turn.content), end]
            ids += [*between, *own]
            learnt += [*([False] * len(between)), *([True] * len(own))]
            before = whole + turn.content
        said.append(turn)
    return tuple(ids[:limit]), tuple(learnt[:limit])


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _ids(model: WhiteBox, text: str) -> list[int]:
    ids: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def end_of_turn(tokenizer: Any) -> int:
    """The token that ends an assistant's turn: the first one that the chat template writes after an answer.

    Where the template writes plain text there, or there is no template, it is the end-of-sequence token.
    """
    marker = "fivefold"
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": marker}]
        tail = tokenizer.apply_chat_template(turns, tokenize=False).rsplit(marker, 1)[-1].lstrip()
        ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
        if ids and ids[0] in tokenizer.all_special_ids:
            return int(ids[0])
    return int(tokenizer.eos_token_id)
