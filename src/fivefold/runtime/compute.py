"""One thread for all of torch's work in a process.

OpenMP keeps a pool of workers for every thread that ever computed. With two such threads there are more workers than
processors, GNU OpenMP then lets idle workers sleep instead of spin, and each small operation pays for waking them: on two
cores, generation off the main thread took 1.4 times as long as on it. Here everything computes on one thread, whoever
asks: event loops, attacks that meet in batches, trainers. What can be split into rows of its own is handed on by that
thread to a crew (`crew.py`), whose threads have one core each and no pool.

Leaving the process breaks off what is still computed (an abandoned batch). It has to: Python takes the floor from under
daemon threads, and one that comes out of torch after that ends the process as crashed (exit code 134).
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import wraps
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Work = tuple["Future[Any]", Callable[[], Any]]


LEAVE_SECONDS = 30.0
"""How long leaving waits for the operation that is being computed; what follows it is broken off."""


class _Worker(threading.Thread):
    """Does one piece of work after the other. A daemon: leaving the process does not wait for a batch."""

    def __init__(self) -> None:
        super().__init__(name="fivefold-compute", daemon=True)
        self.work: SimpleQueue[Work] = SimpleQueue()
        self._busy = threading.Lock()
        self._leaving = False

    def run(self) -> None:
        while True:
            future, call = self.work.get()
            with self._busy:
                self._do(future, call)
            del future, call

    def _do(self, future: Future[Any], call: Callable[[], Any]) -> None:
        try:
            if self._leaving:
                raise SystemExit
            future.set_result(call())
        except BaseException as error:
            # leaving may break in just after the result was set
            if not future.done():
                future.set_exception(error)

    def leave(self) -> None:
        """Begin nothing more, and break off what is being done as soon as its operation ends; nobody prints an error."""
        self._leaving = True
        if self.ident is not None and not self._busy.acquire(blocking=False):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(SystemExit))
            self._busy.acquire(timeout=LEAVE_SECONDS)


_worker: _Worker | None = None
_starting = threading.Lock()
_here = threading.local()


def _forget() -> None:
    """A forked child has no threads but its own."""
    global _worker
    _worker = None


def _leave() -> None:
    if _worker is not None:
        _worker.leave()


os.register_at_fork(after_in_child=_forget)
atexit.register(_leave)


def _running() -> _Worker:
    global _worker
    with _starting:
        if _worker is None:
            _worker = _Worker()
            _worker.start()
        return _worker


def compute(call: Callable[[], R]) -> R:
    """`call()` on the compute thread; its result, or its exception. On that thread already, or on one of its crew, it
    runs at once."""
    worker = _running()
    if threading.current_thread() is worker or is_computing():
        return call()
    future: Future[R] = Future()
    worker.work.put((future, call))
    return future.result()


@contextmanager
def computing() -> Iterator[None]:
    """Marks this thread as one that works for the compute thread, which waits for it."""
    _here.computing = True
    try:
        yield
    finally:
        _here.computing = False


def is_computing() -> bool:
    """Whether this thread is one that works for the compute thread."""
    return bool(getattr(_here, "computing", False))


def on_compute_thread(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run on the compute thread wherever it is called from."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        return compute(lambda: function(*args, **kwargs))

    return called
