"""A model as the engine asks it: requests of many samples gathered into batches, and a deadline kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from fivefold.errors import BudgetError
from fivefold.runtime.batching import Batcher, Settle
from fivefold.runtime.protocol import Context, Model, OnDone, Request
from fivefold.types import Completion, Likelihood

T = TypeVar("T")
Pairs: TypeAlias = tuple[tuple[Context, str], ...]

GENERATE_CHUNK = 32
"""Requests a call while there is a deadline, which is looked at between calls."""
LIKELIHOOD_CHUNK = 256
"""Pairs a call: what a killed run may lose."""


@dataclass(kw_only=True)
class Budget:
    """What may be used by all runs that are given the same one. None is no limit.

    It is looked at before each chunk of requests, so the last chunk may go beyond it. Answers from a memory count like
    any other, so that a repeated run stops at the same place.
    """

    seconds: float | None = None
    """Time since the first request."""
    tokens: int | None = None
    """Prompt and answer tokens; of options that are compared by likelihood only the options' own."""
    used: int = 0
    deadline: float | None = None

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.seconds is not None or self.tokens is not None

    def check(self) -> None:
        """BudgetError when nothing more may be started; starts the clock."""
        if self.seconds is not None:
            self.deadline = time.monotonic() + self.seconds if self.deadline is None else self.deadline
            if time.monotonic() >= self.deadline:
                raise BudgetError("the time budget is spent", next_step="give more time, or a smaller --limit")
        if self.tokens is not None and self.used >= self.tokens:
            raise BudgetError("the token budget is spent", next_step="allow more tokens, or a smaller --limit")


@runtime_checkable
class Joining(Protocol):
    """A model whose running batch takes in requests that come later, where `joins` says so."""

    joins: bool

    def generate(
        self,
        requests: Sequence[Request],
        *,
        on_done: OnDone | None = None,
        more: Callable[[], Sequence[Request]] | None = None,
    ) -> list[Completion]:
        """As `Model.generate`; `more` is asked while the batch runs."""
        ...


class Served:
    """One model behind two batchers that share a lock: a model is asked by one thread at a time.

    What has not been started when the `budget` is spent fails with BudgetError.
    """

    def __init__(
        self, model: Model, *, budget: Budget | None = None, on_answer: Callable[[], None] | None = None
    ) -> None:
        self.model = model
        self._on_answer = on_answer
        self.budget = budget or Budget()
        self._lock = threading.Lock()
        self.generations: Batcher[Request, Completion] = Batcher(self._generate)
        self.scores: Batcher[Pairs, list[Likelihood]] = Batcher(self._score)

    def generate(self, request: Request) -> Future[Completion]:
        """Queue one generation."""
        return self.generations.submit(request)

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> Future[list[Likelihood]]:
        """Queue the pairs of one case; they stay together in one call to the model."""
        return self.scores.submit(tuple(pairs))

    def _generate(self, requests: Sequence[Request], settle: Settle[Completion]) -> None:
        if isinstance(self.model, Joining) and self.model.joins and not self.budget.limited:
            self._generate_joining(self.model, requests, settle)
            return
        step = GENERATE_CHUNK if self.budget.limited else len(requests)
        settled: set[int] = set()
        for start in range(0, len(requests), step):
            chunk = requests[start : start + step]

            def done(i: int, completion: Completion, start: int = start) -> None:
                if start + i not in settled:
                    settled.add(start + i)
                    self._settle(settle, start + i, completion)

            with self._lock:
                self.budget.check()
                completions = self.model.generate(chunk, on_done=done)
                self.budget.used += sum(c.usage.prompt + c.usage.completion for c in completions)
            for i, completion in enumerate(completions):
                done(i, completion)

    def _generate_joining(self, model: Joining, requests: Sequence[Request], settle: Settle[Completion]) -> None:
        """Requests that come while others are answered join them, so that no sample waits for a batch to end."""
        with self._lock:
            completions = model.generate(
                requests, on_done=lambda i, answer: self._settle(settle, i, answer), more=self.generations.take
            )
        self.budget.used += sum(c.usage.prompt + c.usage.completion for c in completions)

    def _score(self, items: Sequence[Pairs], settle: Settle[list[Likelihood]]) -> None:
        for chunk in _chunks(items):
            with self._lock:
                self.budget.check()
                scores = self.model.log_likelihood([pair for i in chunk for pair in items[i]])
                self.budget.used += sum(x.n_tokens for x in scores)
            found = iter(scores)
            for i in chunk:
                self._settle(settle, i, _take(found, len(items[i])))

    def _settle(self, settle: Settle[T], i: int, result: T) -> None:
        settle(i, result)
        if self._on_answer:
            self._on_answer()


def _chunks(items: Sequence[Pairs]) -> list[list[int]]:
    """Whole items, about LIKELIHOOD_CHUNK pairs a chunk."""
    chunks: list[list[int]] = [[]]
    size = 0
    for i, pairs in enumerate(items):
        if size >= LIKELIHOOD_CHUNK:
            chunks.append([])
            size = 0
        chunks[-1].append(i)
        size += len(pairs)
    return chunks


def _take(found: Iterator[Likelihood], n: int) -> list[Likelihood]:
    return [next(found) for _ in range(n)]
