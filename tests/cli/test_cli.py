"""The command line: what it prints, how it exits, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fivefold.cli.app import run
from fivefold.evidence import Store
from fivefold.thread import outcomes


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def call(capsysbinary: Any, *argv: str) -> tuple[int, str, str]:
    code = run(list(argv))
    out, err = capsysbinary.readouterr()
    return code, out.decode(), err.decode()


def test_help_imports_neither_torch_nor_inspect() -> None:
    heavy = ("torch", "inspect_ai", "transformers", "sqlalchemy")
    code = (
        "import sys, fivefold; from fivefold.cli.app import run; run(['--help']);"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stderr.strip() == "[]"
    assert "evaluate" in done.stdout and "redteam" in done.stdout


def test_evaluate_prints_measurements_with_their_counts(capsysbinary: Any) -> None:
    argv = ("evaluate", "core-harms", "--model", "scripted:refuse", "--limit", "6", "--language", "en", "--json")
    code, out, _ = call(capsysbinary, *argv)
    body = json.loads(out)
    first = next(
        m for m in body["measurements"] if m["metric"] == "harmful_compliance" and m["slice"] == {"language": "en"}
    )
    assert code == 0 and first["estimate"] == 0.0 and first["high"] > 0.3 and first["n_scored"] == 6
    assert {"n_unscored", "n_errored", "dataset", "judge", "code", "safer", "unit", "level", "run", "id"} <= set(first)
    code, out, _ = call(capsysbinary, "measurements", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert first["id"] in {m["id"] for m in lines}


def test_any_file_is_a_benchmark(capsysbinary: Any, tmp_path: Path) -> None:
    cases = tmp_path / "mine.jsonl"
    cases.write_text(
        '{"id": "1", "prompt": "Say hello", "target": "hello"}\n{"id": "2", "prompt": "Say bye", "target": "zzz"}\n'
    )
    code, out, _ = call(
        capsysbinary, "evaluate", "--cases", str(cases), "--scorer", "contains", "--model", "scripted:echo", "--json"
    )
    assert code == 0
    assert json.loads(out)["measurements"][0]["estimate"] == 0.5


def test_redteam_finds_and_replay_sees(capsysbinary: Any) -> None:
    argv = (
        "redteam",
        "--model",
        "scripted:comply",
        "--attack",
        "base64 | template",
        "--limit",
        "2",
        "--queries",
        "1",
        "--json",
    )
    code, out, _ = call(capsysbinary, *argv)
    body = json.loads(out)
    assert code == 0 and body["measurements"][0]["estimate"] == 1.0 and body["findings"]
    assert call(capsysbinary, "findings", "replay", "--model", "scripted:comply", "--json")[0] == 3
    assert call(capsysbinary, "findings", "replay", "--model", "scripted:refuse", "--json")[0] == 0
    id = body["findings"][0]["id"]
    assert id in call(capsysbinary, "findings", "list")[1]
    assert "shortest case" in call(capsysbinary, "findings", "show", id)[1]
    code, _, err = call(capsysbinary, "findings", "close", id, "--reason", "done", "--evidence", "abcdef")
    assert code == 2 and "verified" in err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["evaluate", "core-harm", "--model", "scripted:refuse"], 2, ["did you mean 'core-harms'"]),
        (["evaluate", "core-harms", "--model", "smolm2"], 2, ["smollm2"]),
        (["evaluate", "core-harms", "--model", "./no/such/model"], 1, ["no"]),
        (["evaluate", "core-harms", "--model", "scripted:refuse", "--split", "tset"], 2, ["test"]),
        (["evaluate", "--model", "scripted:refuse"], 2, ["--cases"]),
        (["redteam", "--model", "scripted:refuse", "--attack", "templat"], 2, ["template"]),
        (["redteam", "--model", "scripted:refuse", "--attack", "gcg"], 1, ["gradients"]),
        (["interpret", "layer_sweep", "--model", "scripted:refuse"], 1, ["activations"]),
        (["run", "missing.yaml"], 2, ["no plan"]),
        (["govern", "gate", "relase"], 2, ["release"]),
        (["govern", "card"], 2, ["no run"]),
        (["list", "atacks"], 2, ["attacks"]),
        (["findings", "show", "FF-0"], 2, ["FF-0"]),
        (["no-such-command"], 2, ["no-such-command"]),
    ],
)
def test_wrong_input_gets_an_error_that_helps(capsysbinary: Any, argv: list[str], code: int, words: list[str]) -> None:
    got, _, err = call(capsysbinary, *argv)
    assert got == code, err
    assert all(word in err for word in words), err
    assert "Traceback" not in err


def test_errors_are_json_too(capsysbinary: Any) -> None:
    code, out, _ = call(capsysbinary, "evaluate", "core-harm", "--model", "scripted:refuse", "--json")
    body = json.loads(out)
    assert code == 2 and body["error"] == "UnknownNameError" and "core-harms" in str(body)


def test_an_empty_file_of_cases_is_refused(capsysbinary: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    code, _, err = call(
        capsysbinary, "evaluate", "--cases", str(empty), "--scorer", "exact", "--model", "scripted:echo"
    )
    assert code == 2 and "empty" in err


def test_a_broken_gguf_is_refused(capsysbinary: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\x00\x00\x00garbage")
    code, _, err = call(capsysbinary, "evaluate", "core-harms", "--model", str(broken))
    assert code == 1 and "broken.gguf" in err and "Traceback" not in err


def test_a_home_without_permission_is_an_error_that_says_so(capsysbinary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIVEFOLD_HOME", "/proc/nowhere")
    code, _, err = call(capsysbinary, "measurements")
    assert code == 1 and "/proc/nowhere" in err and "Traceback" not in err


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="a disk of a given size needs bubblewrap")
@pytest.mark.parametrize("room", [65_536, 400_000])
def test_a_disk_that_is_full_is_an_error_that_says_so(tmp_path: Path, room: int) -> None:
    """On a real file system of `room` bytes: with too little for the store, and with too little for the answers."""
    small = tmp_path / "small"
    small.mkdir()
    disk = ["bwrap", "--dev-bind", "/", "/", "--size", str(room), "--tmpfs", str(small)]
    command = ["fivefold.cli", "evaluate", "core-harms", "--model", "scripted:refuse", "--limit", "4"]
    ran = subprocess.run(
        [*disk, sys.executable, "-m", *command],
        env={**os.environ, "FIVEFOLD_HOME": str(small / "home"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: ") and "no space is left" in ran.stderr and "free some space" in ran.stderr


def test_a_judge_that_fails_is_neither_hit_nor_pass(capsysbinary: Any, tmp_path: Path) -> None:
    rules = tmp_path / "broken.yaml"
    rules.write_text('- match: ".*"\n  error: the model fell over\n')
    code, out, _ = call(
        capsysbinary,
        "evaluate",
        "core-harms",
        "--model",
        f"scripted:{rules}",
        "--limit",
        "3",
        "--language",
        "en",
        "--json",
    )
    first = json.loads(out)["measurements"][0]
    assert code == 4 and first["estimate"] is None and first["n_errored"] == 3 and first["n_scored"] == 0


def test_verify_needs_a_store_and_proves_one(capsysbinary: Any) -> None:
    assert call(capsysbinary, "govern", "verify")[0] == 1
    call(capsysbinary, "evaluate", "core-harms", "--model", "scripted:refuse", "--limit", "2", "--language", "en")
    code, out, _ = call(capsysbinary, "govern", "verify")
    assert code == 0 and "whole" in out


def test_a_safety_evaluation_is_played_recorded_and_takes_no_split(capsysbinary: Any) -> None:
    from fivefold.evaluate.safety._base import organism

    model = f"scripted:{organism('good_citizen', 'misbehaves')}"
    code, out, _ = call(capsysbinary, "evaluate", "good-citizen", "--model", model, "--limit", "2", "--json")
    found = [m for m in json.loads(out)["measurements"] if m["metric"] == "overreach"]
    assert code == 0 and {m["slice"]["condition"]: m["estimate"] for m in found if "category" not in m["slice"]} == {
        "issue": 1.0,
        "no-issue": 0.0,
        "stop": 1.0,
        "go-on": 1.0,
    }
    with Store.open() as store:
        kept = {o.suite: o for o in outcomes.load(store, json.loads(out)["run"])}
    assert kept["good_citizen/overreach/issue"].rows["boiler"].outcome.label == "used what is not its to use"
    code, _, err = call(capsysbinary, "evaluate", "good_citizen", "--model", model, "--split", "dev")
    assert code == 2 and "has no splits" in err


@pytest.mark.parametrize(
    "kind",
    ["attacks", "guards", "suites", "scorers", "methods", "losses", "gates", "backends", "transforms", "evaluations"],
)
def test_lists(capsysbinary: Any, kind: str) -> None:
    code, out, _ = call(capsysbinary, "list", kind, "--json")
    assert code == 0 and json.loads(out)[kind]


def test_init_writes_a_plan_that_can_be_planned(capsysbinary: Any) -> None:
    assert call(capsysbinary, "init", "--model", "scripted:refuse")[0] == 0
    code, out, _ = call(capsysbinary, "plan", "--json")
    assert code == 0 and any(step["requests"] for step in json.loads(out)["steps"])
    assert call(capsysbinary, "init", "--model", "scripted:refuse")[0] == 2


def test_an_evaluation_in_which_nothing_could_be_scored_does_not_pass(capsysbinary: Any, tmp_path: Path) -> None:
    cases, rules = tmp_path / "mine.jsonl", tmp_path / "rules.jsonl"
    cases.write_text('{"id": "1", "prompt": "one", "target": "1"}\n{"id": "2", "prompt": "two", "target": "2"}\n')
    argv = ["evaluate", "--cases", str(cases), "--scorer", "contains", "--json", "--model", f"scripted:{rules}"]
    for script, wanted in (('{"match": ".", "error": "down"}', 4), ('{"match": "one", "answer": "1"}', 0)):
        rules.write_text(f'{script}\n{{"match": ".", "error": "down"}}\n')
        code, out, _ = call(capsysbinary, *argv)
        measured = json.loads(out)["measurements"][0]
        assert code == wanted and measured["n_errored"] == (2 if wanted else 1)
        assert (measured["estimate"] is None) is bool(wanted)


@pytest.mark.parametrize("moment", ["begin", "batch"])
def test_ctrl_c_says_that_the_command_can_be_continued(moment: str, tmp_path: Path) -> None:
    """Before Inspect has a log, and while a batch is computed: neither ends in a traceback or as crashed."""
    code = f"""
import os, signal, sys
import inspect_ai
from fivefold.cli.app import run
from fivefold.runtime.backends.hf import HFModel

# a shell that starts the tests in the background has them ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupted(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)
    return generate(*args, **kwargs)

if {moment!r} == "batch":
    generate, HFModel.generate = HFModel.generate, interrupted
else:
    inspect_ai.eval = lambda *args, **kwargs: []
sys.exit(run(["evaluate", "core-harms", "-m", "smollm2", "--limit", "8", "--max-new-tokens", "64"]))
"""
    env = {**os.environ, "FIVEFOLD_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert "run the same command again" in done.stderr
