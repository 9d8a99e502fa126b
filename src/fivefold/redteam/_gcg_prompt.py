"""Where an adversarial suffix stands among the ids of a conversation, and whether its text comes back as those ids."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from fivefold.errors import ModelError, UsageError
from fivefold.redteam.attacks._text import with_prompt
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Case, Message

Ids: TypeAlias = tuple[int, ...]


class SuffixPrompt:
    """A conversation whose last user turn ends with a suffix, as ids: `before`, the suffix, `after`, `goal`.

    The places are found by encoding the conversation with two different suffixes: what both share at the start is
    `before`, what both share at the end is `after` (the template up to where the assistant speaks). Nothing is assumed
    of the template. `goal` are the tokens that the answer should open with, `start` those of the initial suffix.
    """

    def __init__(self, model: WhiteBox, case: Case, init: str, goal: str) -> None:
        self.model, self.case = model, case
        whole = model.encode(self._ask(f" {init}"))
        other = model.encode(self._ask(f" {_another(init)}"))
        head = _shared(whole, other)
        tail = _shared(whole[head:][::-1], other[head:][::-1])
        stop = len(whole) - tail
        self.before, self.start, self.after = tuple(whole[:head]), tuple(whole[head:stop]), tuple(whole[stop:])
        if not self.before or not self.start:
            raise UsageError(
                "the suffix has no tokens of its own after the request",
                expected="a request, then a suffix of at least one token",
                got=f"{len(self.before)} tokens before it, {len(self.start)} in {init!r}",
            )
        self._anchor = self._find_anchor(init)
        self.goal = self._encode_goal(goal)

    def text(self, suffix: Sequence[int]) -> str:
        """What is appended to the request so that `suffix` is what the model sees."""
        return self._texts([suffix])[0]

    def messages(self, suffix: Sequence[int]) -> tuple[Message, ...]:
        """The conversation with `suffix` at the end of its last user turn."""
        return self._ask(self.text(suffix))

    def consistent(self, suffix: Sequence[int]) -> bool:
        """Whether the whole conversation, sent as text, is encoded as exactly these ids: no merge at either end."""
        return tuple(self.model.encode(self.messages(suffix))) == (*self.before, *suffix, *self.after)

    def surviving(self, candidates: Sequence[Ids]) -> list[Ids]:
        """Candidates whose text is tokenised back to them, after the token that stands before the suffix.

        A quick filter in one batch; a merge with what follows the suffix is left to `consistent`.
        """
        return _stable(self.model.tokenizer, self._anchor, candidates)

    def _ask(self, ending: str) -> tuple[Message, ...]:
        return with_prompt(self.case, self.case.prompt + ending)

    def _texts(self, suffixes: Sequence[Sequence[int]]) -> list[str]:
        lead = self.before[-1:]
        (shown,) = _decode(self.model.tokenizer, [lead])
        return [text[len(shown) :] for text in _decode(self.model.tokenizer, [(*lead, *s) for s in suffixes])]

    def _find_anchor(self, init: str) -> Ids:
        """The token before the suffix where it can be tokenised by itself, else nothing."""
        if self.consistent(self.start):
            for anchor in (self.before[-1:], ()):
                if _stable(self.model.tokenizer, anchor, [self.start]):
                    return anchor
        raise UsageError(
            f"the initial suffix {init!r} is not encoded as the same tokens once it has been decoded",
            expected="a text that survives decode → encode at the end of the request",
            got=repr(self.text(self.start)),
            next_step="choose another `init`, such as '!'",
        )

    def _encode_goal(self, goal: str) -> Ids:
        prompt = [*self.before, *self.start, *self.after]
        whole = self.model.encode(self.messages(self.start), prefill=goal)
        if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            raise ModelError(
                f"the target text {goal!r} has no tokens of its own after the chat template",
                expected="a text whose first token does not merge with the end of the template",
                next_step="choose another `target_text`",
            )
        return tuple(whole[len(prompt) :])


def _another(init: str) -> str:
    """A suffix that shares no character with `init`."""
    free = [c for c in string.ascii_lowercase + string.digits + string.punctuation if c not in init]
    if not free:
        raise UsageError(
            f"the initial suffix uses every ASCII character: {init!r}", next_step="choose a simpler `init`"
        )
    return free[0]


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of leading ids that `a` and `b` share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _decode(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    texts: list[str] = tokenizer.batch_decode([list(r) for r in rows], clean_up_tokenization_spaces=False)
    return texts


def _stable(tokenizer: Any, anchor: Ids, candidates: Sequence[Ids]) -> list[Ids]:
    if not candidates:
        return []
    rows = [(*anchor, *c) for c in candidates]
    back = tokenizer(_decode(tokenizer, rows), add_special_tokens=False)["input_ids"]
    return [c for c, row, ids in zip(candidates, rows, back, strict=True) if tuple(ids) == row]


@lru_cache(maxsize=4)
def banned(tokenizer: Any, size: int, allow_non_ascii: bool) -> Ids:
    """Ids below `size` (the rows of the embedding) that no suffix may hold.

    Special tokens and ids without text are banned always; without `allow_non_ascii` also every token that is not
    printable ASCII.
    """
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    known = min(size, len(tokenizer))
    texts = _decode(tokenizer, [[i] for i in range(known)])
    plain = [bool(t) and (allow_non_ascii or (t.isascii() and t.isprintable())) for t in texts]
    return tuple(i for i in range(size) if i >= known or i in special or not plain[i])
