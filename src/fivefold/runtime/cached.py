"""A model with remembered answers: what has been asked of exactly this model is not computed again.

Every answer is remembered the moment it is finished, so a run that is killed loses only what was in flight. Only
deterministic requests are remembered: a greedy answer, or a sampled one whose seed is part of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    @property
    def joins(self) -> bool:
        """Whether requests may join a running batch, as the inner model's may."""
        return bool(getattr(self.inner, "joins", False))

    def generate(
        self,
        requests: Sequence[Request],
        *,
        on_done: OnDone | None = None,
        more: Callable[[], Sequence[Request]] | None = None,
    ) -> list[Completion]:
        """Remembered answers at once, the others from the inner model; failures are not remembered. `more` is for an
        inner model that `joins`."""
        batch = _Batch(self, on_done)
        options: dict[str, Any] = {} if more is None else {"more": lambda: batch.admit(more())}
        todo = batch.admit(requests)
        while todo:
            batch.settle(self.inner.generate(todo, on_done=batch.finished, **options))
            todo = batch.admit(more()) if more is not None else []
        return batch.in_order()

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


class _Batch:
    """What is asked in one call: known answers are given at once, equal requests are computed once."""

    def __init__(self, model: CachedModel, on_done: OnDone | None) -> None:
        self.model, self.on_done = model, on_done
        self.answers: dict[int, Completion] = {}
        self.places: dict[str, list[int]] = {}
        self.computed: list[str] = []
        self.settled = 0
        self.asked = 0

    def admit(self, requests: Sequence[Request]) -> list[Request]:
        """Take in requests; returns those that the inner model must answer."""
        keys = [self.model._key("generate", r) for r in requests]
        known = self.model.memory.cached(keys) if keys else {}
        todo = []
        for request, key in zip(requests, keys, strict=True):
            i, self.asked = self.asked, self.asked + 1
            earlier = next((self.answers[j] for j in self.places.get(key, ()) if j in self.answers), None)
            if key in known or earlier is not None:
                self._give(i, earlier or completion_from_json(known[key]))
            elif key not in self.places:
                todo.append(request)
                self.computed.append(key)
            self.places.setdefault(key, []).append(i)
        return todo

    def finished(self, position: int, completion: Completion) -> None:
        """The inner model has answered the request at `position` of its call."""
        key = self.computed[self.settled + position]
        if completion.error is None:
            self.model.memory.remember(key, plain(completion))  # type: ignore[arg-type]
        for i in self.places[key]:
            if i not in self.answers:
                self._give(i, completion)

    def settle(self, completions: Sequence[Completion]) -> None:
        """The inner call has ended; a model that did not call back for each answer is caught up with."""
        for position, completion in enumerate(completions):
            if any(i not in self.answers for i in self.places[self.computed[self.settled + position]]):
                self.finished(position, completion)
        self.settled += len(completions)

    def in_order(self) -> list[Completion]:
        """All answers, as they were asked."""
        return [self.answers[i] for i in range(self.asked)]

    def _give(self, i: int, completion: Completion) -> None:
        self.answers[i] = completion
        if self.on_done:
            self.on_done(i, completion)


def completion_from_json(data: Mapping[str, Any]) -> Completion:
    """Inverse of `plain(completion)`."""
    return Completion(**{**data, "tokens": tuple(data["tokens"]), "usage": Usage(**data["usage"])})
