"""A sandbox ends with the process that started it, whenever that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from _processes import gone, processes_with, running
from fivefold.score.sandbox import missing


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if lacking := missing():
        pytest.fail("these tests need the sandbox: " + "; ".join(lacking))


def test_it_dies_with_the_process_that_started_it() -> None:
    marker = "31536002.25"
    limits = "SandboxLimits(seconds=300)"
    code = f"from fivefold.score.sandbox import *; run_sandboxed({{}}, ['sleep', '{marker}'], limits={limits})"
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        deadline = time.monotonic() + 90
        while not running("sleep", marker) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running("sleep", marker)
    finally:
        parent.kill()
        parent.wait()
    assert gone(marker)


def test_a_caller_killed_while_the_sandbox_is_set_up_leaves_no_code_running() -> None:
    """bubblewrap itself may be left, waiting for its dead first process before it has set anything up: nothing runs in it."""
    marker = "31536003.25"
    code = f"""
    import threading
    from fivefold.score.sandbox import *
    print(flush=True)
    for _ in range(12):
        threading.Thread(target=run_sandboxed, args=({{}}, ["sleep", "{marker}"])).start()
    """
    for delay in (0.0, 0.01, 0.02, 0.04, 0.08):
        parent = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        assert parent.stdout is not None and parent.stdout.readline()
        while len(processes_with(marker)) < 2 and parent.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        assert parent.poll() is None
        parent.kill()
        parent.communicate()
    time.sleep(2)
    found = running("sleep", marker)
    for pid in processes_with(marker):
        os.kill(pid, signal.SIGKILL)
    assert not found
