"""Many attacks at once on one model: each runs as plain sequential code, their requests meet in shared batches.

Every running attack has a thread. A call to `generate` waits until all threads either wait too or are done; then one
batch
with all requests goes to the model. Batches depend only on what the attacks ask, not on timing, so runs repeat.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from fivefold.runtime.protocol import Capability, Context, Model, OnDone, Request
from fivefold.types import Completion, Likelihood

T = TypeVar("T")


class BatchingModel:
    """`inner` behind a meeting point for `workers` threads; satisfies the Model protocol."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner
        self._lock = threading.Condition()
        self._active = 0
        self._waiting: list[tuple[int, Sequence[Request]]] = []
        self._answers: dict[int, list[Completion] | BaseException] = {}

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

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Passed through."""
        return self.inner.log_likelihood(pairs)

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """Wait for the other threads' requests, then answer all of them in one batch."""
        me = threading.get_ident()
        with self._lock:
            self._waiting.append((me, requests))
            self._serve_if_all_wait()
            self._lock.wait_for(lambda: me in self._answers)
            answer = self._answers.pop(me)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def run_all(self, jobs: Sequence[Callable[[], T]], *, workers: int = 32) -> list[T]:
        """Run `jobs`, `workers` at a time, and return their results in order; the first failure is raised."""
        results: dict[int, T] = {}
        failures: list[BaseException] = []
        for start in range(0, len(jobs), workers):
            chunk = range(start, min(start + workers, len(jobs)))

            def work(i: int) -> None:
                try:
                    results[i] = jobs[i]()
                except BaseException as error:
                    failures.append(error)
                finally:
                    with self._lock:
                        self._active -= 1
                        self._serve_if_all_wait()

            threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in chunk]
            self._active = len(threads)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if failures:
                raise failures[0]
        return [results[i] for i in range(len(jobs))]

    def _serve_if_all_wait(self) -> None:
        if not self._waiting or len(self._waiting) < self._active:
            return
        waiting, self._waiting = sorted(self._waiting, key=lambda w: repr(w[1])), []
        flat = [r for _, requests in waiting for r in requests]
        try:
            completions: list[Completion] | BaseException = self.inner.generate(flat)
        except BaseException as error:
            completions = error
        at = 0
        for ident, requests in waiting:
            if isinstance(completions, BaseException):
                self._answers[ident] = completions
            else:
                self._answers[ident] = completions[at : at + len(requests)]
                at += len(requests)
        self._lock.notify_all()
