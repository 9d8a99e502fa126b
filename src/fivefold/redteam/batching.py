"""Many attacks at once on one model: each runs as plain sequential code, their requests meet in shared batches.

Every running attack has a thread. A call to `generate` waits until all threads either wait too or are done; then one
batch for each model that was asked goes out, with all requests to it. Batches depend only on what the attacks ask, not on
timing, so runs repeat. The target and the models that help (attacker, evaluator) share one `Meeting`, so an attack that
alternates between them still steps in time with the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from fivefold.redteam.budget import Purse
from fivefold.runtime.protocol import Capability, Context, Model, OnDone, Request
from fivefold.types import Completion, Likelihood

T = TypeVar("T")
Answer = list[Completion] | BaseException


class Meeting:
    """Where threads meet before their requests go out together. `purse` pays for every request, in a fixed order."""

    def __init__(self, purse: Purse | None = None) -> None:
        self.purse = purse
        self._lock = threading.Condition()
        self._active = 0
        self._waiting: list[tuple[int, Model, Sequence[Request]]] = []
        self._answers: dict[int, Answer] = {}

    def model(self, inner: Model) -> BatchingModel:
        """`inner` behind this meeting point."""
        return BatchingModel(inner, self)

    def ask(self, inner: Model, requests: Sequence[Request]) -> list[Completion]:
        """Wait for the other threads, then get the answers to these requests."""
        me = threading.get_ident()
        with self._lock:
            self._waiting.append((me, inner, requests))
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
        waiting, self._waiting = sorted(self._waiting, key=lambda w: (w[1].fingerprint, repr(w[2]))), []
        groups: dict[int, list[tuple[int, Model, Sequence[Request]]]] = {}
        for one in waiting:
            groups.setdefault(id(one[1]), []).append(one)
        for group in groups.values():
            self._serve(group)
        self._lock.notify_all()

    def _serve(self, group: Sequence[tuple[int, Model, Sequence[Request]]]) -> None:
        """One batch of one model; whoever the purse cannot pay for is told so and takes no part in it."""
        paid: list[tuple[int, Model, Sequence[Request]]] = []
        for one in group:
            refusal = self.purse.reserve(len(one[2])) if self.purse else None
            if refusal is None:
                paid.append(one)
            else:
                self._answers[one[0]] = refusal
        if not paid:
            return
        try:
            completions = paid[0][1].generate([r for _, _, requests in paid for r in requests])
        except BaseException as error:
            self._answers.update({ident: error for ident, _, _ in paid})
            return
        if self.purse:
            self.purse.charge(completions)
        at = 0
        for ident, _, requests in paid:
            self._answers[ident] = completions[at : at + len(requests)]
            at += len(requests)


class BatchingModel:
    """`inner` behind a meeting point for threads; satisfies the Model protocol."""

    def __init__(self, inner: Model, meeting: Meeting | None = None) -> None:
        self.inner = inner
        self.meeting = meeting or Meeting()

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
        return self.meeting.ask(self.inner, requests)

    def run_all(self, jobs: Sequence[Callable[[], T]], *, workers: int = 32) -> list[T]:
        """See `Meeting.run_all`."""
        return self.meeting.run_all(jobs, workers=workers)
