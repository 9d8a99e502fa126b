"""What goes into a model and what comes out: messages, cases, completions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Split: TypeAlias = Literal["train", "dev", "test"]
StopReason: TypeAlias = Literal["stop", "length", "error", "filtered"]

TRAIN_SHARE, DEV_SHARE = 0.5, 0.15


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One item of a suite, benchmark or attack: what a model is asked, and what a scorer needs to judge the answer.

    `choices` with an integer `target` is a multiple-choice item scored by likelihood; a string `target` is a reference
    answer. `behaviour` groups cases that share what is asked (translations, a harmful request and its look-alike), and
    the split follows it, so nothing learnt on a behaviour is tested on the same behaviour.
    """

    id: str
    messages: tuple[Message, ...]
    suite: str = ""
    behaviour: str = ""
    category: str = ""
    language: str = "en"
    target: str | int | None = None
    choices: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """Text of the last user turn."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def split(self) -> Split:
        """Train, dev or test, fixed by the behaviour's hash."""
        return split_of(self.behaviour or self.id)


def split_of(behaviour: str) -> Split:
    """The split that a behaviour belongs to for ever: SHA-256 of its id, 50 / 15 / 35 %."""
    u = int(hashlib.sha256(behaviour.encode()).hexdigest()[:12], 16) / 16**12
    return "train" if u < TRAIN_SHARE else "dev" if u < TRAIN_SHARE + DEV_SHARE else "test"


def user_case(id: str, prompt: str, **fields: Any) -> Case:
    """A case of one user turn."""
    return Case(id=id, messages=(Message(role="user", content=prompt),), **fields)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one request. `shared` counts prompt tokens that were computed for another request and reused."""

    prompt: int = 0
    completion: int = 0
    shared: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt=self.prompt + other.prompt,
            completion=self.completion + other.completion,
            shared=self.shared + other.shared,
        )


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A model's answer. `model` is the fingerprint of exactly what answered (weights, adapters, guards, template)."""

    text: str
    model: str
    stop_reason: StopReason = "stop"
    tokens: tuple[int, ...] = ()
    usage: Usage = Usage()
    seed: int = 0
    error: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Log-probability of a continuation given a context, in nats. `greedy`: each token was the most likely one. `read`: tokens
    of context and continuation, for what was spent; None where the model does not say."""

    total: float
    n_tokens: int
    n_bytes: int
    greedy: bool
    model: str
    read: int | None = None
