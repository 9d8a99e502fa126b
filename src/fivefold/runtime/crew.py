"""Pieces of work that compute side by side on a CPU, each on cores of its own.

Cores that share every single operation wait for each other at the end of each; threads that work off rows of their own do
not. What that gives here is measured in docs/decisions/side-by-side.md. Rows are cut evenly for the workers before the
start, never by who is faster, so results are the same every time, and but for the order of sums those of one thread.

Pieces must not wait for each other. They take over the caller's gradient mode; torch's random numbers are the process's
own and shared, so a piece that draws from them belongs elsewhere.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from fivefold.runtime.compute import computing, is_computing

T = TypeVar("T")

MOST = 4
"""Pieces at a time at most: each reads all the weights from memory, which more cores have to share."""
AHEAD = 2
"""Pieces a worker that may be handed in before they are worked off."""

SLACK = 32
"""Tokens by which rows of whole blocks stay below their size, about."""

_pools: dict[int, ThreadPoolExecutor] = {}
_starting = threading.Lock()


def workers_of(device: torch.device) -> int:
    """How many pieces of work should go side by side on `device`: the threads torch may use, up to `MOST`; 1 on a GPU."""
    return min(MOST, torch.get_num_threads()) if device.type == "cpu" else 1


class Crew:
    """Takes pieces of work; with one worker each is done at once, by the caller."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._room = threading.Semaphore(AHEAD * workers)
        self._handed: list[Future[Any]] = []

    def put(self, piece: Callable[[], T]) -> Future[T]:
        """Hand in one piece; waits while enough lies ahead. The error of an earlier piece is raised here or in `finish`."""
        future: Future[T]
        if self.workers == 1:
            future = Future()
            future.set_result(piece())
            return future
        self._raise_failed()
        self._room.acquire()
        future = _pool(self.workers).submit(_settled, piece, torch.is_grad_enabled(), self._threads())
        future.add_done_callback(lambda _: self._room.release())
        self._handed.append(future)
        return future

    def finish(self) -> None:
        """Wait until everything is done; raises the first error."""
        for future in self._handed:
            future.result()
        self._handed = []

    def drop(self) -> None:
        """Take back what has not begun, and wait for the rest."""
        for future in self._handed:
            if not future.cancel():
                future.exception()
        self._handed = []

    def _raise_failed(self) -> None:
        while self._handed and self._handed[0].done():
            self._handed.pop(0).result()

    def _threads(self) -> int:
        return max(1, torch.get_num_threads() // self.workers)


@contextmanager
def crew(workers: int) -> Iterator[Crew]:
    """A crew whose work is finished when the block ends; when it ends by an error, what is left is dropped. Within a piece
    of work there is no crew but the caller."""
    workers = 1 if is_computing() else workers
    team, threads = Crew(workers), torch.get_num_threads()
    try:
        yield team
        team.finish()
    except BaseException:
        team.drop()
        raise
    finally:
        if workers > 1:
            torch.set_num_threads(threads)  # what a worker sets for itself is also what later threads begin with


def side_by_side(pieces: Sequence[Callable[[], T]], workers: int) -> list[T]:
    """The results of all `pieces`, in their order."""
    with crew(min(workers, max(1, len(pieces)))) as team:
        futures = [team.put(piece) for piece in pieces]
    return [future.result() for future in futures]


def even(tokens: int, limit: int, workers: int) -> int:
    """A size of rows, at most `limit`, by which every worker gets about as many of `tokens`; `limit` for a single one."""
    if workers == 1 or tokens == 0:
        return limit
    rows = -(-tokens // (limit * workers)) * workers
    return min(limit, -(-tokens // rows) + SLACK)


def _settled(piece: Callable[[], T], gradients: bool, threads: int) -> T:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    with torch.set_grad_enabled(gradients), computing():
        return piece()


def _pool(workers: int) -> ThreadPoolExecutor:
    with _starting:
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix="fivefold-crew")
        return _pools[workers]


os.register_at_fork(after_in_child=_pools.clear)
