"""Many attacks at once on one model: each runs as plain sequential code, their requests meet in shared batches.

Every running attack has a thread. A call to `generate` or `log_likelihood` waits until all threads either wait too or are
done; then one batch for each model and kind of call goes out, with all that is asked of it. Batches depend only on what the
attacks ask, not on timing, so runs repeat. The target and the models that help (attacker, evaluator) share one `Meeting`, so
an attack that alternates between them still steps in time with the others. `Meeting.clock` gives each thread the time that
is its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fivefold.redteam.budget import Purse, tokens_of
from fivefold.runtime.protocol import Capability, Context, Model, OnDone, Request
from fivefold.types import Completion, Likelihood

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What a thread asks of a model: requests to answer, or pairs whose likelihood is wanted (`reading`)."""

    thread: int
    model: Model
    items: Sequence[Any]
    reading: bool

    def order(self) -> tuple[str, bool, str]:
        """What the place in a batch depends on."""
        return self.model.fingerprint, self.reading, repr(self.items)

    def answered(self, items: Sequence[Any]) -> list[Any]:
        """What the model says to `items`, this thread's and others'."""
        return list(self.model.log_likelihood(items) if self.reading else self.model.generate(items))


class Meeting:
    """Where threads meet before their requests go out together. `purse` pays for every request, in a fixed order."""

    def __init__(self, purse: Purse | None = None) -> None:
        self.purse = purse
        self._lock = threading.Condition()
        self._active = 0
        self._waiting: list[Asked] = []
        self._answers: dict[int, list[Any] | BaseException] = {}
        self._not_own: dict[int, float] = {}

    def model(self, inner: Model) -> BatchingModel:
        """`inner` behind this meeting point."""
        return BatchingModel(inner, self)

    def clock(self) -> float:
        """Seconds that are the calling thread's own: what it did by itself, and its share of every batch that it took part
        in, by tokens (evenly where none were counted). Waiting for others is not its own. Only differences mean anything."""
        return time.monotonic() - self._not_own.get(threading.get_ident(), 0.0)

    def ask(self, inner: Model, items: Sequence[Any], *, reading: bool = False) -> list[Any]:
        """Wait for the other threads, then get the answers to these requests, or (`reading`) the likelihoods of these
        pairs."""
        me, came = threading.get_ident(), time.monotonic()
        with self._lock:
            self._waiting.append(Asked(me, inner, items, reading))
            self._serve_if_all_wait()
            self._lock.wait_for(lambda: me in self._answers)
            answer = self._answers.pop(me)
            self._not_own[me] = self._not_own.get(me, 0.0) + time.monotonic() - came
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
        waiting, self._waiting = sorted(self._waiting, key=Asked.order), []
        groups: dict[tuple[int, bool], list[Asked]] = {}
        for one in waiting:
            groups.setdefault((id(one.model), one.reading), []).append(one)
        for group in groups.values():
            self._serve(group)
        self._lock.notify_all()

    def _serve(self, group: Sequence[Asked]) -> None:
        """One batch of one model; whoever the purse cannot pay for is told so and takes no part in it."""
        paid: list[Asked] = []
        for one in group:
            refusal = self.purse.reserve(0 if one.reading else len(one.items)) if self.purse else None
            if refusal is None:
                paid.append(one)
            else:
                self._answers[one.thread] = refusal
        if not paid:
            return
        began = time.monotonic()
        try:
            answers = paid[0].answered([item for one in paid for item in one.items])
            if self.purse:
                self.purse.charge(answers)
            self._hand_out(paid, answers, time.monotonic() - began)
        except BaseException as error:
            self._answers.update({one.thread: error for one in paid})

    def _hand_out(self, paid: Sequence[Asked], answers: Sequence[Any], seconds: float) -> None:
        """To each thread its answers, and its share of the batch's time."""
        at, weights = 0, []
        for one in paid:
            own = list(answers[at : at + len(one.items)])
            self._answers[one.thread] = own
            weights.append(sum(map(tokens_of, own)))
            at += len(one.items)
        if not all(weights):
            weights = [len(one.items) for one in paid]
        for one, weight in zip(paid, weights, strict=True):
            self._not_own[one.thread] = self._not_own.get(one.thread, 0.0) - seconds * weight / max(1, sum(weights))


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
        """Wait for the other threads' pairs, then read all of them in one batch."""
        return self.meeting.ask(self.inner, pairs, reading=True)

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """Wait for the other threads' requests, then answer all of them in one batch."""
        return self.meeting.ask(self.inner, requests)

    def run_all(self, jobs: Sequence[Callable[[], T]], *, workers: int = 32) -> list[T]:
        """See `Meeting.run_all`."""
        return self.meeting.run_all(jobs, workers=workers)
