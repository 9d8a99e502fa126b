"""Requests of many threads meet in few batches; every caller gets its own answer or the batch's failure."""

from __future__ import annotations

import threading
import time

import pytest

from fivefold.runtime.batching import Batcher


def doubling(sizes: list[int]):
    def work(items, settle):
        sizes.append(len(items))
        time.sleep(0.02)
        for i, item in enumerate(items):
            settle(i, 2 * item)

    return work


def test_many_callers_share_few_batches_and_get_their_own_answers() -> None:
    sizes: list[int] = []
    batcher = Batcher(doubling(sizes))
    futures = [batcher.submit(i) for i in range(200)]
    assert [f.result(timeout=5) for f in futures] == [2 * i for i in range(200)]
    assert len(sizes) <= 3 and sum(sizes) == 200


def test_announced_callers_are_waited_for() -> None:
    sizes: list[int] = []
    batcher = Batcher(doubling(sizes))
    batcher.expect(3)
    futures = []

    def late() -> None:
        for i in range(3):
            time.sleep(0.05)
            futures.append(batcher.submit(i))

    thread = threading.Thread(target=late)
    thread.start()
    thread.join()
    assert [f.result(timeout=5) for f in futures] == [0, 2, 4]
    assert sizes == [3]


def test_a_failure_reaches_every_caller_of_the_batch_and_the_next_batch_works() -> None:
    fail = [True]

    def work(items, settle):
        if fail[0]:
            raise OSError("lost")
        for i in range(len(items)):
            settle(i, "ok")

    batcher = Batcher(work)
    futures = [batcher.submit(i) for i in range(3)]
    for future in futures:
        with pytest.raises(OSError, match="lost"):
            future.result(timeout=5)
    fail[0] = False
    assert batcher.submit(1).result(timeout=5) == "ok"


def test_answers_given_before_a_failure_are_kept() -> None:
    def work(items, settle):
        settle(0, "first")
        raise OSError("lost")

    batcher = Batcher(work)
    first, second = batcher.submit(0), batcher.submit(1)
    assert first.result(timeout=5) == "first"
    with pytest.raises(OSError):
        second.result(timeout=5)


def test_work_that_forgets_an_item_is_an_error_and_not_a_hang() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items, settle: None)
    with pytest.raises(RuntimeError, match="without an answer"):
        batcher.submit(1).result(timeout=5)


def test_no_thread_stays_when_nothing_is_asked() -> None:
    batcher = Batcher(doubling([]))
    batcher.submit(1).result(timeout=5)
    deadline = time.monotonic() + 2
    while any(t.name == "fivefold-batcher" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(t.name == "fivefold-batcher" for t in threading.enumerate())


def test_items_that_come_while_a_batch_runs_may_join_it() -> None:
    entered, go = threading.Event(), threading.Event()

    def work(items, settle):
        entered.set()
        go.wait(10)
        joined = [*items, *batcher.take()]
        for i, item in enumerate(joined):
            settle(i, item * 10)
        sizes.append(len(joined))

    sizes: list[int] = []
    batcher = Batcher(work)
    first = batcher.submit(1)
    assert entered.wait(10)
    later = [batcher.submit(2), batcher.submit(3)]
    go.set()
    assert [f.result(10) for f in (first, *later)] == [10, 20, 30]
    assert sizes == [3]
