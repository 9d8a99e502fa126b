"""A model with remembered answers: what has been asked of exactly this model is not computed again.

Every answer is remembered the moment it is finished, so a run that is killed loses only what was in flight. Only
deterministic requests are remembered: a greedy answer, or a sampled one whose seed is part of the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fivefold.runtime.protocol import Capability, Context, Model, OnDone, Request
from fivefold.types import Completion, Likelihood, Usage, digest, plain


class Memory(Protocol):
    """Where answers are kept: the evidence store's completion cache."""

    def cached(self, keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """The remembered values of those keys that are known."""
        ...

    def remember(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep one value, durably."""
        ...


class CachedModel:
    """`inner` with a memory in front. The fingerprint is the inner model's: a memory changes no answer."""

    def __init__(self, inner: Model, memory: Memory) -> None:
        self.inner, self.memory = inner, memory

    @property
    def name(self) -> str:
        """The inner model's name."""
        return self.inner.name

    @property
    def fingerprint(self) -> str:
        """The inner model's fingerprint."""
        return self.inner.fingerprint

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The inner model's capabilities."""
        return self.inner.capabilities

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """Remembered answers at once, the others from the inner model; failures are not remembered."""
        keys = [self._key("generate", r) for r in requests]
        known = self.memory.cached(keys)
        answers: dict[int, Completion] = {}
        first: dict[str, int] = {}
        for i, key in enumerate(keys):
            if key in known:
                answers[i] = completion_from_json(known[key])
                if on_done:
                    on_done(i, answers[i])
            else:
                first.setdefault(key, i)
        todo = list(first.values())

        def finished(position: int, completion: Completion) -> None:
            i = todo[position]
            if completion.error is None:
                self.memory.remember(keys[i], plain(completion))  # type: ignore[arg-type]
            for j, key in enumerate(keys):
                if key == keys[i] and j not in answers:
                    answers[j] = completion
                    if on_done:
                        on_done(j, completion)

        for position, completion in enumerate(
            self.inner.generate([requests[i] for i in todo], on_done=finished) if todo else []
        ):
            if todo[position] not in answers:
                finished(position, completion)
        return [answers[i] for i in range(len(requests))]

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Remembered values, the others from the inner model in one call."""
        keys = [self._key("likelihood", pair) for pair in pairs]
        known = self.memory.cached(keys)
        todo = [i for i, key in enumerate(keys) if key not in known]
        fresh = self.inner.log_likelihood([pairs[i] for i in todo]) if todo else []
        computed = dict(zip(todo, fresh, strict=True))
        for i, value in computed.items():
            self.memory.remember(keys[i], plain(value))  # type: ignore[arg-type]
        return [computed[i] if i in computed else Likelihood(**known[keys[i]]) for i in range(len(pairs))]

    def _key(self, call: str, request: object) -> str:
        return digest({"call": call, "model": self.fingerprint, "request": plain(request)})


def completion_from_json(data: Mapping[str, Any]) -> Completion:
    """Inverse of `plain(completion)`."""
    return Completion(**{**data, "tokens": tuple(data["tokens"]), "usage": Usage(**data["usage"])})
