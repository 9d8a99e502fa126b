"""Many writers and sudden deaths leave one chain, whole."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fivefold.evidence import Store, verify

spawn = multiprocessing.get_context("spawn")


def append_many(home: str, name: str, n: int) -> None:
    with Store.open(home) as store:
        for i in range(n):
            store.append("note", {"by": name, "i": i}, run=name, signed=i % 5 == 0)
            store.remember(f"{name}-{i}", {"model": "m", "i": i})


def test_processes_that_create_and_append_at_once_do_not_fork_the_chain(home: Path):
    workers = [spawn.Process(target=append_many, args=(str(home), f"p{i}", 15)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    with Store.open(home) as store:
        report = verify(store)
        assert report.ok, report.problems
        assert len(store.records("note")) == 60 and len(store.records("key")) == 1
        for i in range(4):
            assert [r.body["i"] for r in store.records("note", f"p{i}")] == list(range(15))
        assert store.cache.count() == 60


def test_threads_share_one_store(store):
    def work(name: str) -> None:
        for i in range(10):
            store.append("note", {"by": name, "i": i})
            store.remember(f"{name}-{i}", {"i": i})

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(store).ok and len(store.records("note")) == 40 and store.cache.count() == 40


def test_a_forked_process_writes_through_connections_of_its_own(store):
    store.append("note", {"by": "parent"})
    child = os.fork()
    if child == 0:
        try:
            for i in range(20):
                store.append("note", {"by": "child", "i": i})
            os._exit(0)
        except BaseException:
            os._exit(1)
    for i in range(20):
        store.append("note", {"by": "parent", "i": i})
    assert os.waitpid(child, 0)[1] == 0
    assert verify(store).ok and len(store.records("note")) == 41


def test_a_transition_cannot_be_taken_twice(home, finding):
    """Two processes that both want open → patched: one wins, the other is told."""
    with Store.open(home) as store:
        store.add_finding(finding)
    with Store.open(home) as one, Store.open(home) as two:
        one.update_finding("F-1", "patched", reason="by one")
        after = two.update_finding("F-1", "patched", reason="by two")
        assert [why for _, _, why in after.history] == ["found", "by one"], "already there: nothing is added"


WRITER = """
import sys
from fivefold.evidence import Store
with Store.open(sys.argv[1]) as store:
    print("ready", flush=True)
    i = 0
    while True:
        store.append("note", {"i": i, "text": "x" * 2000}, run="r", signed=True)
        store.put_artifact(str(i).encode() * 5000, name=f"a{i}", media_type="t")
        store.remember(str(i), {"i": i})
        print(i, flush=True)
        i += 1
"""


@pytest.mark.parametrize("after", [0.0, 0.013, 0.031, 0.07, 0.15])
def test_kill_9_loses_nothing_that_was_finished(home: Path, after: float):
    for round_ in range(2):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(home)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(after)
        os.kill(process.pid, signal.SIGKILL)
        finished = [int(line) for line in process.stdout.read().split()]
        process.wait()
        with Store.open(home) as store:
            report = verify(store)
            assert report.ok, (round_, report.problems)
            kept = {r.body["i"] for r in store.records("note")}
            assert set(finished) <= kept, "what was reported done is there"
            assert set(store.cached([str(i) for i in finished])) == {str(i) for i in finished}


def test_killed_while_it_is_created(home: Path):
    for delay in (0.3, 0.45, 0.6, 0.75, 0.9):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(home)], stdout=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.wait()
        with Store.open(home) as store:
            assert verify(store).ok
        for path in sorted(home.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
