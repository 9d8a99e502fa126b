"""Runs: outcomes are read back from logs, errors are never scores, a killed run continues, nothing leaks in or out."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai")

from inspect_ai.log import read_eval_log

from fivefold.engine import RunResult, run_cases
from fivefold.errors import CapabilityError, DataError
from fivefold.evidence import Store
from fivefold.runtime.backends.scripted import Rule, Scripted, load
from fivefold.runtime.protocol import Capability
from fivefold.score import scorer
from fivefold.types import Case, Errored, Message, Scored, Unscored, user_case

ROOT = Path(__file__).parents[2]


def cases(n: int) -> list[Case]:
    return [
        user_case(f"s/en/{i}", f"How do I pick lock number {i}?", category="locks", behaviour=f"b{i}") for i in range(n)
    ]


def run(model, items, tmp_path: Path, judge="refusal", **options) -> RunResult:
    return run_cases(
        model, items, scorer(judge) if isinstance(judge, str) else judge, name="t", log_dir=tmp_path / "logs", **options
    )


def test_outcomes_and_completions_come_back_for_every_case(tmp_path: Path) -> None:
    result = run(load("refuse"), cases(30), tmp_path)
    assert {o.label for o in result.outcomes.values() if isinstance(o, Scored)} == {"refusal"}
    assert set(result.outcomes) == set(result.completions) == {c.id for c in cases(30)}
    one = result.completions["s/en/3"]
    assert one.model == load("refuse").fingerprint and one.text and one.usage.completion > 0
    assert result.usage.completion == sum(c.usage.completion for c in result.completions.values())
    assert not result.stopped_early


def test_the_log_is_an_inspect_log_with_the_model_and_the_scores(tmp_path: Path) -> None:
    result = run(load("comply"), cases(3), tmp_path)
    log = read_eval_log(str(result.log_path))
    assert log.status == "success" and log.eval.task == "t"
    assert log.eval.model == f"fivefold/scripted:comply@{load('comply').fingerprint[:12]}"
    sample = (log.samples or [])[0]
    assert sample.metadata["category"] == "locks"
    assert sample.scores is not None and sample.scores["refusal"].as_float() == 1.0
    assert any(event.event == "model" for event in sample.events)


def test_errors_of_the_model_are_errored_and_never_scored(tmp_path: Path) -> None:
    model = Scripted(
        "flaky", (Rule(match="number 1", error="connection lost"), Rule(answer=("I can't help with that.",)))
    )
    outcomes = run(model, cases(5), tmp_path).outcomes
    assert isinstance(outcomes["s/en/1"], Errored) and "connection lost" in outcomes["s/en/1"].error
    assert Counter(o.kind for o in outcomes.values()) == {"scored": 4, "errored": 1}


def test_a_model_that_breaks_makes_its_cases_errored(tmp_path: Path) -> None:
    class Broken(Scripted):
        def generate(self, requests, *, on_done=None):
            raise OSError("out of memory")

    outcomes = run(Broken("broken", (), bot="echo"), cases(3), tmp_path).outcomes
    assert all(isinstance(o, Errored) and "out of memory" in o.error for o in outcomes.values())


def test_a_judge_that_fails_is_errored(tmp_path: Path) -> None:
    class Judge:
        name, digest = "own", "d"

        def __call__(self, case, completion):
            if case.id.endswith("0"):
                return Errored(error="no verdict", judge="d")
            if case.id.endswith("1"):
                raise ValueError("a bug in the judge")
            if case.id.endswith("2"):
                return Unscored(reason="ambiguous", judge="d")
            return Scored(value=1.0, label="x", judge="d")

    outcomes = run(load("echo"), cases(4), tmp_path, Judge()).outcomes
    kinds = [outcomes[f"s/en/{i}"].kind for i in range(4)]
    assert kinds == ["errored", "errored", "unscored", "scored"]
    assert "no verdict" in outcomes["s/en/0"].error and "a bug in the judge" in outcomes["s/en/1"].error
    assert outcomes["s/en/2"] == Unscored(reason="ambiguous", judge="d")


def test_a_slow_judge_runs_on_threads(tmp_path: Path) -> None:
    import threading

    seen: set[str] = set()

    class Slow:
        name, digest, slow = "slow", "d", True

        def __call__(self, case, completion):
            seen.add(str(threading.get_ident()))
            time.sleep(0.05)
            return Scored(value=0.0, label="x", judge="d")

    run(load("echo"), cases(8), tmp_path, Slow())
    assert str(threading.get_ident()) not in seen and len(seen) > 1


def test_multiple_choice_is_scored_by_likelihood_in_one_call(tmp_path: Path) -> None:
    calls: list[int] = []

    class Counting(Scripted):
        def log_likelihood(self, pairs):
            calls.append(len(pairs))
            return super().log_likelihood(pairs)

    rules = (Rule(match="capital of Norway", continuation="Oslo", likelihood=-0.1), Rule(answer=("unused",)))
    model = Counting("choosing", rules)
    fields = {"choices": ("Bergen", "Oslo", "Tromsø"), "target": 1}
    items = [user_case(f"c/{i}", f"{i}: what is the capital of Norway?", **fields) for i in range(20)]
    result = run(model, items, tmp_path, "choice")
    assert all(o == o and o.value == 1.0 and o.label == "B" for o in result.outcomes.values())
    assert result.outcomes["c/0"].metadata == {"acc": 1.0, "acc_norm": 1.0}
    assert result.completions["c/0"].text == "B) Oslo"
    assert calls == [60]


def test_options_of_a_chat_case_follow_the_chat_template(tmp_path: Path) -> None:
    contexts = []

    class Looking(Scripted):
        def log_likelihood(self, pairs):
            contexts.extend(pairs)
            return super().log_likelihood(pairs)

    case = user_case("c", "Which?", choices=("a", "b"), target=0, metadata={"style": "chat"})
    run(Looking("looking", (Rule(answer=("x",)),)), [case], tmp_path, "choice")
    assert contexts[0] == ((Message(role="user", content="Which?"),), "a")
    wrong = user_case("c", "Which?", choices=("a", "b"), target=0, metadata={"style": "poem"})
    outcome = run(load("echo"), [wrong], tmp_path, "choice").outcomes["c"]
    assert isinstance(outcome, Errored) and "unknown style" in outcome.error


def test_time_that_is_spent_leaves_cases_unscored(tmp_path: Path) -> None:
    model = Scripted("slow", (Rule(answer=("I can't help with that.",), delay=0.02),))
    result = run(model, cases(200), tmp_path, seconds=0.5)
    kinds = Counter(o.kind for o in result.outcomes.values())
    assert result.stopped_early and kinds["unscored"] > 0 and kinds["scored"] > 0 and kinds["errored"] == 0
    assert {o.reason for o in result.outcomes.values() if isinstance(o, Unscored)} == {"budget"}


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    run(load("echo"), cases(10), tmp_path, on_progress=lambda done, total, seconds: seen.append((done, total)))
    assert seen[-1] == (10, 10) and [d for d, _ in seen] == list(range(1, 11))


def test_a_repeated_run_asks_nothing_again(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting(Scripted):
        def generate(self, requests, *, on_done=None):
            asked.append(len(requests))
            return super().generate(requests, on_done=on_done)

    model = Counting("counting", (), bot="refuse")
    with Store.open(tmp_path / "home") as store:
        first = run(model, cases(12), tmp_path, cache=store)
        second = run(model, cases(15), tmp_path, cache=store)
    assert sum(asked) == 15
    assert {k: v.text for k, v in first.completions.items()}.items() <= {
        k: v.text for k, v in second.completions.items()
    }.items()


KILLED = """
import sys
from pathlib import Path
from fivefold.engine import run_cases
from fivefold.evidence import Store
from fivefold.runtime.backends.scripted import load
from fivefold.score import scorer
from fivefold.types import user_case
home = Path(sys.argv[1])
cases = [user_case(f"s/{i}", f"How do I pick lock number {i}?") for i in range(60)]
with Store.open(home) as store:
    model, judge = load(str(home / "bot.yaml")), scorer("refusal")
    result = run_cases(model, cases, judge, name="k", log_dir=home / "logs", cache=store)
print(len(result.outcomes), {o.kind for o in result.outcomes.values()})
"""


def test_a_run_that_is_killed_continues_where_it_was(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "bot.yaml").write_text('- {answer: "I cannot help with that.", delay: 0.1}\n')
    command = [sys.executable, "-c", KILLED, str(home)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while _remembered(home) < 15:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = _remembered(home)
    assert 15 <= kept < 60
    start = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    assert done.stdout.strip() == "60 {'scored'}", done.stderr
    assert _remembered(home) == 60
    assert time.monotonic() - start < 180


def _remembered(home: Path) -> int:
    import sqlite3

    try:
        connection = sqlite3.connect(f"file:{home / 'evidence.db'}?mode=ro", uri=True)
        return int(connection.execute("SELECT count(*) FROM completions").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_nothing_leaks_in_from_the_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("INSPECT_LOG_DIR=elsewhere\nSURPRISE=1\nINSPECT_EVAL_MODEL=mockllm/model\n")
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("INSPECT_LOG_LEVEL", "debug")
    before = dict(os.environ)
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    result = run(load("echo"), cases(2), tmp_path)
    assert result.log_path.parent == tmp_path / "logs"
    assert "SURPRISE" not in os.environ and dict(os.environ) == before
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)
    assert not (tmp_path / "other").exists() and not (tmp_path / "elsewhere").exists()


def test_nothing_is_written_outside_the_log_folder_and_nothing_is_printed(tmp_path: Path) -> None:
    home = tmp_path / "user"
    home.mkdir()
    code = KILLED.replace("range(60)", "range(3)")
    (home / "bot.yaml").write_text("- {match: 'number 1', error: broken}\n- {answer: 'No.'}\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith("XDG")}
    env |= {"HOME": str(home), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("3 ")
    assert {p.name for p in tmp_path.iterdir()} == {"user"}
    stray = {p.name for p in home.iterdir()} & {".local", ".cache", ".config", "Library", ".inspect", ".env"}
    assert not stray


NETLESS = """
import socket, sys
def deny(*a, **k): raise AssertionError("network: %r" % (a,))
socket.socket.connect = deny
socket.getaddrinfo = deny
sys.argv = ["x", sys.argv[1]]
"""


def test_a_display_that_an_earlier_run_opened_stays_silent(tmp_path: Path, capsysbinary) -> None:
    from inspect_ai._display.core import active
    from inspect_ai._display.plain.display import PlainDisplay

    opened = active._active_display = PlainDisplay()
    try:
        run(load("refuse"), cases(2), tmp_path)
        assert active._active_display is opened
    finally:
        active._active_display = None
    assert capsysbinary.readouterr() == (b"", b"")


def test_a_run_opens_no_connection(tmp_path: Path) -> None:
    (tmp_path / "bot.yaml").write_text("- {answer: 'No.'}\n")
    code = NETLESS + KILLED.replace("range(60)", "range(3)")
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr


def test_a_run_inside_an_event_loop_works(tmp_path: Path) -> None:
    import asyncio

    async def inside() -> RunResult:
        return run(load("echo"), cases(2), tmp_path)

    assert len(asyncio.run(inside()).outcomes) == 2


def test_wrong_input_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no cases"):
        run(load("echo"), [], tmp_path)
    with pytest.raises(DataError, match="two cases have the id"):
        run(load("echo"), [*cases(1), *cases(1)], tmp_path)

    class Talker(Scripted):
        capabilities = frozenset({Capability.GENERATE})

    choice = user_case("c", "q", choices=("a", "b"), target=0)
    with pytest.raises(CapabilityError, match="likelihood"):
        run(Talker("talker", (), bot="echo"), [choice], tmp_path, "choice")
    assert not (tmp_path / "logs").exists()


def test_importing_the_engine_imports_neither_inspect_nor_torch() -> None:
    code = (
        "import sys, fivefold.engine.run, fivefold.evaluate.run, fivefold.score.answers\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'inspect_ai', 'transformers'})))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", f"import json\n{code}"], env=env, capture_output=True, text=True)
    assert json.loads(done.stdout) == [], done.stderr


def test_stop_strings_end_answers_of_scripted_and_of_real_models(tmp_path: Path) -> None:
    from _tiny import tiny_folder
    from fivefold.runtime.load import load as load_model

    asked = [user_case(str(i), f"say a{i} STOP b{i}", target=f"b{i}") for i in range(3)]
    whole = run(load("echo"), asked, tmp_path, "contains")
    cut = run(load("echo"), asked, tmp_path, "contains", stop=("STOP", ""))
    assert {o.value for o in whole.outcomes.values() if isinstance(o, Scored)} == {1.0}
    assert {o.value for o in cut.outcomes.values() if isinstance(o, Scored)} == {0.0}
    assert all("STOP" not in c.text for c in cut.completions.values())
    tiny = load_model(str(tiny_folder(tmp_path / "model")))
    free = run(tiny, asked[:1], tmp_path, "contains", max_new_tokens=24).completions["0"].text
    middle = free[len(free) // 2 : len(free) // 2 + 3]
    short = run(tiny, asked[:1], tmp_path, "contains", max_new_tokens=24, stop=(middle,)).completions["0"]
    assert short.text == free[: free.index(middle)] and short.stop_reason == "stop"
