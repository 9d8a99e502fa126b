"""Which texts of an exchange a guard reads, disguises taken off."""

from __future__ import annotations

from fivefold.guard.normalise import View, views
from fivefold.types import Exchange, Message


def text_of(exchange: Exchange) -> str:
    """What is new at this stage: the answer, what the tool returned, or the last user turn."""
    if exchange.stage == "output":
        return exchange.answer or ""
    roles = ("user", "tool") if exchange.stage == "input" else ("tool", "assistant", "user")
    return next((m.content for role in roles for m in reversed(exchange.messages) if m.role == role), "")


def views_of(exchange: Exchange) -> list[View]:
    """Every reading of the new text; a prefill forced on the assistant is one more text to read."""
    found = views(text_of(exchange))
    prefill = str(exchange.metadata.get("prefill", "")) if exchange.stage == "input" else ""
    return found + [View(name=f"prefill/{v.name}", text=v.text) for v in views(prefill)] if prefill.strip() else found


def with_last_user(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """The conversation with its last user turn replaced."""
    at = [i for i, m in enumerate(messages) if m.role == "user"]
    if not at:
        return (*messages, Message(role="user", content=text))
    return tuple(Message(role="user", content=text) if i == at[-1] else m for i, m in enumerate(messages[: at[-1] + 1]))
