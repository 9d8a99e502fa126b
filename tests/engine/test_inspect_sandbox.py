"""The bubblewrap sandbox as Inspect sees it: Inspect's own conformance checks, its errors, and a task in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="needs the extra 'eval'")

from inspect_ai import Task, eval_async
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, accuracy, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import (
    SandboxEnvironmentSpec,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandbox,
)
from inspect_ai.util._sandbox.self_check import *  # noqa: F403

from fivefold.engine import sandbox as module
from fivefold.engine._inspect_sandbox import BubblewrapConfig, BubblewrapSandbox
from fivefold.errors import SandboxError
from fivefold.score.sandbox import missing

pytestmark = pytest.mark.anyio

KNOWN_FAILURES = {"test_exec_as_user": "one unprivileged user is the point of this sandbox"}

# Inspect's checks of killing by time-out sleep for seconds each; tests/score/test_sandbox.py kills faster.
del test_exec_timeout_kills_child_processes, test_exec_timeout_kills_process  # noqa: F821


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if lacking := missing():
        pytest.fail("these tests need the sandbox: " + "; ".join(lacking))


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[BubblewrapSandbox]:
    made = await BubblewrapSandbox.sample_init("test", None, {})
    environment = made["default"].as_type(BubblewrapSandbox)
    yield environment
    await BubblewrapSandbox.sample_cleanup("test", None, made, False)


@pytest.fixture
def sandbox_env(shared: BubblewrapSandbox, request: pytest.FixtureRequest) -> BubblewrapSandbox:
    if reason := KNOWN_FAILURES.get(getattr(request.node, "originalname", "")):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    return shared


async def test_root_is_refused(sandbox_env: BubblewrapSandbox) -> None:
    with pytest.raises(SandboxUserUnsupportedError, match="one user"):
        await sandbox_env.exec(["id"], user="root")
    assert (await sandbox_env.exec(["id", "-un"], user="nobody")).stdout == "nobody\n"


async def test_a_dead_sandbox_is_unavailable_and_not_a_result() -> None:
    made = await BubblewrapSandbox.sample_init("test", BubblewrapConfig(processes=16, disk_mib=4, files=50), {})
    environment = made["default"]
    with pytest.raises(SandboxUnavailableError, match="50 files"):
        await environment.exec(["sh", "-c", "for i in $(seq 200); do touch f$i; done; sleep 5"])
        await environment.exec(["true"])
    await BubblewrapSandbox.sample_cleanup("test", None, made, True)
    with pytest.raises(SandboxUnavailableError):
        await environment.read_file("f1")


async def test_a_link_does_not_lead_the_host_out(sandbox_env: BubblewrapSandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden")
    for target in ("/etc/shadow", tmp_path / "secret"):
        await sandbox_env.exec(["ln", "-sfn", str(target), "link"])
        with pytest.raises(FileNotFoundError):
            await sandbox_env.read_file("link")


async def test_a_docker_configuration_is_refused() -> None:
    with pytest.raises(SandboxError, match="runs no image"):
        await BubblewrapSandbox.sample_init("test", "compose.yaml", {})


async def test_limits_of_the_configuration_hold() -> None:
    config = BubblewrapSandbox.config_deserialize({"memory_mib": 256, "processes": 16})
    assert isinstance(config, BubblewrapConfig)
    made = await BubblewrapSandbox.sample_init("test", config, {})
    done = await made["default"].exec(["python3", "-c", "bytearray(300 * 2**20)"])
    assert not done.success and "MemoryError" in done.stderr
    await BubblewrapSandbox.sample_cleanup("test", config, made, False)
    with pytest.raises(ValueError):
        BubblewrapSandbox.config_deserialize({"memory": 1})


def test_inspect_finds_it_through_the_entry_point() -> None:
    """A fresh process that loads what the entry point names, as `inspect eval --sandbox bubblewrap` does."""
    code = (
        "import fivefold.engine.provider\n"
        "from inspect_ai.util._sandbox.registry import registry_find_sandboxenv\n"
        "print(registry_find_sandboxenv('bubblewrap').__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "BubblewrapSandbox", done.stderr


def test_docker_where_it_answers_bubblewrap_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "docker_missing", lambda: "docker is not installed")
    assert module.default_sandbox() == "bubblewrap"
    with pytest.raises(SandboxError, match="docker is not installed"):
        module.default_sandbox(needs_docker=True)
    monkeypatch.setattr(module, "missing", lambda: ("bwrap not found",))
    with pytest.raises(SandboxError, match="bwrap not found"):
        module.default_sandbox()
    monkeypatch.setattr(module, "docker_missing", lambda: None)
    assert module.default_sandbox(needs_docker=True) == "docker"


@solver
def write_and_run() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        await sandbox().write_file("answer.py", "print(6 * 7)")
        state.output.completion = (await sandbox().exec(["python3", "answer.py"])).stdout.strip()
        return state

    return solve


@scorer(metrics=[accuracy()])
def includes_given_file() -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        given = await sandbox().read_file("given/data.txt")
        return Score(value=state.output.completion == target.text and given == "7")

    return score


async def test_a_task_runs_in_it(tmp_path: Path) -> None:
    sample = Sample(input="?", target="42", files={"given/data.txt": "7"})
    task = Task(dataset=[sample], solver=write_and_run(), scorer=includes_given_file(), sandbox="bubblewrap")
    log = (await eval_async(task, model="mockllm/model", log_dir=str(tmp_path)))[0]
    assert log.status == "success", log.error
    assert log.results and log.results.scores[0].metrics["accuracy"].value == 1.0
    assert log.eval.sandbox == SandboxEnvironmentSpec("bubblewrap")
