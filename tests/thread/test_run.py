"""The whole thread on a scripted model: it decides, does nothing twice, survives `kill -9`, and opens no connection."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fivefold.evidence import Store, verify
from fivefold.thread import prepare, run_thread
from fivefold.thread.steps import Quiet

PLAN: dict[str, Any] = {
    "fivefold": 1,
    "name": "scripted",
    "model": "scripted:comply",
    "owner": "A. Owner",
    "evaluate": [
        {"suite": "core-harms", "limit": 12, "languages": ["en", "ko"]},
        {"suite": "core-benign", "limit": 12, "languages": ["en"]},
    ],
    "redteam": {
        "attacks": [
            {"name": "template", "behaviours": 3, "queries": 2},
            {"name": "best_of_n", "behaviours": 3, "queries": 2},
            {"name": "gcg", "behaviours": 1},
        ]
    },
    "gate": "release",
}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_complying_model_is_blocked_and_its_findings_are_recorded(plan: Path, home: Path) -> None:
    result = run_thread(prepare(plan), Quiet())
    assert result.decision["decision"] == "block"
    assert any("harm-en" in reason for reason in result.decision["reasons"])
    assert {f["attack"] for f in result.findings} == {"template", "best_of_n"}
    harms = [m for m in result.measurements if m.metric == "harmful_compliance" and m.slice == {"language": "en"}]
    assert harms[0].estimate == 1.0 and harms[0].low > 0.5 and harms[0].n_scored == 12
    assert any("gcg" in note for note in result.report_data["limits"])
    assert Path(result.documents["card.md"]).read_text().startswith("# Model card")
    with Store.open(home) as store:
        assert verify(store).ok


def test_capability_that_was_not_measured_is_undecided_not_passed(plan: Path) -> None:
    body = {**PLAN, "model": "scripted:refuse"}
    plan.write_text(yaml.safe_dump(body))
    result = run_thread(prepare(plan), Quiet())
    verdicts = {g["rule"]: g["verdict"]["kind"] for g in result.decision["gates"]}
    assert verdicts["capability-kept"] == "undecided"
    assert verdicts["over-refusal"] != "pass"
    assert result.decision["decision"] in ("block", "undecided")


def test_running_again_does_nothing_twice(plan: Path, home: Path) -> None:
    first = run_thread(prepare(plan), Quiet())
    with Store.open(home) as store:
        before = len(store.records())
    second = run_thread(prepare(plan), Quiet())
    with Store.open(home) as store:
        assert len(store.records()) == before
    assert first.run == second.run
    assert set(second.reused) == set(second.results)
    assert second.decision == first.decision


KILLED = """
import sys, yaml
from pathlib import Path
from fivefold.thread import prepare, run_thread
from fivefold.thread.steps import Quiet
class Loud(Quiet):
    def start(self, name, title):
        print(name, flush=True)
run_thread(prepare(Path(sys.argv[1])), Loud())
"""


@pytest.mark.parametrize("step", ["evaluate base", "redteam", "decide"])
def test_killed_anywhere_and_run_again_it_goes_on(plan: Path, home: Path, step: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(plan)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == step:
            time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    result = run_thread(prepare(plan), Quiet())
    assert result.decision["decision"] == "block"
    with Store.open(home) as store:
        assert verify(store).ok
        steps = [r.body["name"] for r in store.records("step", result.run)]
    assert sorted(steps) == sorted(set(steps))


NO_NETWORK = """
import socket, sys
def refuse(*a, **k):
    raise AssertionError("a connection was opened")
allowed = {socket.AF_UNIX}
real = socket.socket.connect
def connect(self, address):
    if self.family not in allowed:
        raise AssertionError(f"a connection was opened to {address}")
    return real(self, address)
socket.socket.connect = connect
socket.socket.connect_ex = connect
socket.create_connection = refuse
socket.getaddrinfo = refuse
from fivefold.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


def test_the_run_opens_no_connection(plan: Path) -> None:
    command = [sys.executable, "-c", NO_NETWORK, "run", str(plan), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert done.returncode == 3, done.stderr
    body = json.loads(done.stdout)
    assert body["decision"] == "block" and Path(body["report"]).read_text().lower().startswith("<!doctype html>")


def test_tampering_is_named(plan: Path, home: Path) -> None:
    import sqlite3

    run_thread(prepare(plan), Quiet())
    with sqlite3.connect(home / "evidence.db") as raw:
        for (name,) in raw.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            raw.execute(f"drop trigger {name}")
        raw.execute(
            "update records set body = replace(body, '\"estimate\":1.0', '\"estimate\":0.0') where kind = 'measurement'"
        )
    with Store.open(home) as store:
        report = verify(store)
    assert not report.ok
    assert any("measurement" in str(problem) for problem in report.problems)
