"""Many callers, one batch: whatever has been asked when the model is free goes to it in one call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Settle: TypeAlias = Callable[[int, Result], None]
Work: TypeAlias = Callable[[Sequence[Item], Settle[Result]], None]
"""Called with the items of a batch and `settle(i, result)`, to be called once for every item."""

QUIET = 0.01
QUIET_EXPECTING = 2.0


@dataclass(frozen=True)
class _Job(Generic[Item, Result]):
    item: Item
    future: Future[Result]


class Batcher(Generic[Item, Result]):
    """Collects items from any thread and hands them to `work` in batches, on a thread that lives while there is work.

    A batch starts when nothing new has come for `QUIET` seconds; while more callers were announced with `expect`, it
    waits for them (up to `QUIET_EXPECTING` after the last arrival), so that one large batch is not preceded by a batch
    of one.
    """

    def __init__(self, work: Work[Item, Result]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._queue: list[_Job[Item, Result]] = []
        self._batch: list[_Job[Item, Result]] = []
        self._expected = 0
        self._running = False

    def expect(self, n: int) -> None:
        """Announce that `n` more items will come soon."""
        with self._changed:
            self._expected = n

    def submit(self, item: Item) -> Future[Result]:
        """Queue one item. Its future fails with whatever `work` raises."""
        job: _Job[Item, Result] = _Job(item, Future())
        with self._changed:
            self._queue.append(job)
            self._expected = max(0, self._expected - 1)
            self._changed.notify_all()
            if not self._running:
                self._running = True
                threading.Thread(target=self._serve, name="fivefold-batcher", daemon=True).start()
        return job.future

    def take(self) -> list[Item]:
        """For `work` while it runs: items that came since its batch started. They join it; their indices follow."""
        with self._changed:
            came, self._queue = self._queue, []
        self._batch.extend(came)
        return [job.item for job in came]

    def _serve(self) -> None:
        while batch := self._gather():
            self._do(batch)

    def _gather(self) -> list[_Job[Item, Result]]:
        """The next batch, or an empty list when the thread should end."""
        with self._changed:
            while True:
                n = len(self._queue)
                if n == 0:
                    self._running = False
                    return []
                self._changed.wait(QUIET_EXPECTING if self._expected else QUIET)
                if len(self._queue) == n or not self._expected:
                    batch, self._queue = self._queue, []
                    return batch

    def _do(self, batch: list[_Job[Item, Result]]) -> None:
        self._batch = batch

        def settle(i: int, result: Result) -> None:
            if not batch[i].future.done():
                batch[i].future.set_result(result)

        try:
            self._work([job.item for job in batch], settle)
            missing: BaseException = RuntimeError("the batch ended without an answer to this request")
        except BaseException as error:
            missing = error
        for job in batch:
            if not job.future.done():
                job.future.set_exception(missing)
