"""Text to tokens and back, in the one way that generation, likelihood and activations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fivefold.errors import ModelError
from fivefold.runtime._likelihood import TokenPair, windows
from fivefold.runtime.protocol import Context
from fivefold.types import Message


@dataclass(frozen=True)
class Codec:
    """A tokenizer with its chat template.

    A conversation is rendered to text first and tokenised without adding special tokens, because the template holds
    them (tokenising with them would double the first). Raw text is tokenised as the tokenizer does by default.
    """

    tokenizer: Any
    name: str

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as text, up to where the assistant speaks."""
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"{self.name} has no chat template, so it cannot be asked a conversation",
                next_step="use raw text contexts, or an instruction-tuned model",
            )
        turns = [{"role": m.role, "content": m.content} for m in messages]
        text: str = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return text

    def encode(self, context: Context, prefill: str = "") -> list[int]:
        """Token ids of a context followed by `prefill`."""
        if isinstance(context, str):
            return self._ids(context + prefill, special=True)
        return self._ids(self.render(context) + prefill, special=False)

    def encode_pair(self, context: Context, continuation: str) -> TokenPair:
        """Context and continuation as lm-eval's `_encode_pair` splits them, so that numbers agree.

        Spaces that end the context move to the continuation; the whole is tokenised together and cut where the context
        alone ends. An empty context is the beginning-of-sequence token (or the end-of-sequence one).
        """
        return self.encode_pairs([(context, continuation)])[0]

    def encode_pairs(self, pairs: Sequence[tuple[Context, str]]) -> list[TokenPair]:
        """`encode_pair` of each; a context that several have is rendered and tokenised once."""
        texts: dict[Context, str] = {}
        known: dict[tuple[str, bool], list[int]] = {}
        made = []
        for context, continuation in pairs:
            special = isinstance(context, str)
            if context not in texts:
                texts[context] = context.rstrip() if isinstance(context, str) else self.render(context)
            text = texts[context]
            after = context[len(text) :] + continuation if isinstance(context, str) else continuation
            if not text:
                made.append(_pair([self._first()], self._ids(after, special=False), after))
                continue
            if (text, special) not in known:
                known[text, special] = self._ids(text, special=special)
            before = known[text, special]
            made.append(_pair(before, self._ids(text + after, special=special)[len(before) :], after))
        return made

    def encode_windows(self, text: str, length: int | None) -> list[TokenPair]:
        """A whole text to be predicted, in windows of at most `length` tokens (one window when None).

        As in lm-eval the text is tokenised as the tokenizer does by default, after the token that starts an empty
        context: a tokenizer that adds one of its own has it twice.
        """
        ids = self._ids(text, special=True)
        if not ids:
            raise ModelError(f"{text!r} has no tokens", expected="a text that is not empty")
        return windows(ids, self._first(), length or len(ids))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _ids(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids

    def _first(self) -> int:
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ModelError(f"{self.name} has no token to start an empty context with")


def _pair(context: Sequence[int], continuation: Sequence[int], text: str) -> TokenPair:
    if not continuation:
        raise ModelError(
            f"the continuation {text!r} has no tokens of its own after its context",
            expected="a continuation that adds at least one token",
        )
    return TokenPair(context=tuple(context), continuation=tuple(continuation))


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first stop string, and whether there was one."""
    found = [at for at in (text.find(s) for s in stops if s) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)
