"""Which text of an exchange a guard reads, disguises taken off, and how a redacted text goes back in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fivefold.guard.normalise import View, views
from fivefold.types import Exchange, Message, Role, Stage

_READS: dict[Stage, tuple[Role, ...]] = {
    "input": ("user",),
    "tool_call": ("assistant",),
    "tool_result": ("tool", "user"),
}
"""Whose last message is new at a stage, by preference; at the output stage it is the answer."""


def text_of(exchange: Exchange) -> str:
    """What is new at this stage: the answer, what the tool returned, or the last user turn."""
    if exchange.stage == "output":
        return exchange.answer or ""
    at = new_message(exchange.messages, exchange.stage)
    return "" if at is None else exchange.messages[at].content


def new_message(messages: Sequence[Message], stage: Stage) -> int | None:
    """Index of the message that is new at a stage before the answer; None when there is none."""
    for role in _READS.get(stage, ()):
        found = [i for i, m in enumerate(messages) if m.role == role]
        if found:
            return found[-1]
    return None


def with_text(exchange: Exchange, text: str) -> Exchange:
    """The exchange with the text of its stage replaced."""
    if exchange.stage == "output":
        return replace(exchange, answer=text)
    return replace(exchange, messages=with_new_message(exchange.messages, exchange.stage, text))


def with_new_message(messages: tuple[Message, ...], stage: Stage, text: str) -> tuple[Message, ...]:
    """The conversation with the content of the message that is new at `stage` replaced; one is added if there is
    none."""
    at = new_message(messages, stage)
    if at is None:
        return (*messages, Message(role="user", content=text))
    return tuple(replace(m, content=text) if i == at else m for i, m in enumerate(messages))


def views_of(exchange: Exchange) -> list[View]:
    """Every reading of the new text; a prefill forced on the assistant is one more text to read."""
    found = views(text_of(exchange))
    prefill = str(exchange.metadata.get("prefill", "")) if exchange.stage == "input" else ""
    return found + [View(name=f"prefill/{v.name}", text=v.text) for v in views(prefill)] if prefill.strip() else found
