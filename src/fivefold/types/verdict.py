"""What a guard sees and says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from fivefold.types.case import Message

Action: TypeAlias = Literal["allow", "block", "redact", "abstain", "error"]
Stage: TypeAlias = Literal["input", "output", "tool_call", "tool_result"]


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What passes a guard: the conversation so far and, at the output stage, the answer."""

    messages: tuple[Message, ...]
    answer: str | None = None
    stage: Stage = "input"
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A guard's word on one exchange. `abstain`: outside what the guard can judge. `error`: it could not look, and the
    stack's policy (fail closed unless told otherwise) decides, never silently "allow"."""

    action: Action
    guard: str
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    replacement: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
