"""Code that is tested in the sandbox: what counts as an answer, what passes, and what must not."""

from __future__ import annotations

import pytest

from fivefold.errors import SandboxError
from fivefold.score import scorer
from fivefold.score.sandbox import SandboxLimits, missing
from fivefold.score.scorers import code_tests
from fivefold.score.scorers.code_tests import program
from fivefold.types import Case, Completion, Errored, Scored, Unscored, user_case

PREFIX = 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """Sum of xs."""\n'
TESTS = "def check(f):\n    assert f([1, 2]) == 3\n    assert f([]) == 0\n\ncheck(total)\n"


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if lacking := missing():
        pytest.fail("these tests need the sandbox: " + "; ".join(lacking))


def case(**changed: object) -> Case:
    return user_case("c", "?", metadata={"tests": TESTS, "entry_point": "total", "prefix": PREFIX} | changed)


def judged(text: str, seconds: float = 120, **changed: object) -> Scored:
    limits = SandboxLimits(**{**vars(code_tests.LIMITS), "seconds": seconds})
    outcome = scorer("code_tests", limits=limits)(case(**changed), Completion(text=text, model="m"))
    assert isinstance(outcome, Scored), outcome
    return outcome


@pytest.mark.parametrize(
    "answer",
    [
        "    return sum(xs)\n",
        "return sum(xs)",
        "n = 0\n    for x in xs:\n        n += x\n    return n\n\n\ndef other():\n    pass",
        "n = 0\nfor x in xs:\n    n += x\nreturn n",
        "Here it is:\n```python\ndef total(xs: List[int]) -> int:\n    return sum(xs)\n```\nIt adds them.",
        "```\ndef helper(xs):\n    return sum(xs)\n\ndef total(xs):\n    return helper(xs)\n```",
        "```python\n    return sum(xs)\n```",
        "```python\ndef total(xs):\n    return sum(xs)",
        "- item\n  ```py\n  def total(xs):\n      return sum(xs)\n  ```",
        "def total(xs):\n    return sum(xs)\n\nThis function adds the numbers.",
        "```\nprint('no')\n```\nor\n```\ndef total(xs):\n    return sum(xs)\n```",
    ],
)
def test_answers_in_every_shape_pass(answer: str) -> None:
    assert judged(answer).label == "passed"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("    return 3", "failed"),
        ("    return sum(xs", "error"),
        ("    import sys; sys.exit(0)", "left early"),
        ("    import os; os._exit(0)", "left early"),
        ("    raise ValueError('x')", "error"),
        ("", "no code"),
    ],
)
def test_what_does_not_pass_says_why(answer: str, label: str) -> None:
    outcome = judged(answer)
    assert (outcome.value, outcome.label) == (0.0, label)


def test_code_that_hangs_or_eats_memory_scores_zero() -> None:
    assert judged("    while True: pass", seconds=1).label == "timeout"
    hungry = judged("    return sum(bytearray(10**9))")
    assert hungry.value == 0.0 and "MemoryError" in hungry.explanation


def test_code_cannot_reach_the_network_or_the_host() -> None:
    reaching = (
        "    import urllib.request\n    urllib.request.urlopen('http://127.0.0.1:1', timeout=1)\n    return sum(xs)"
    )
    assert judged(reaching).label == "error"
    assert judged("    open('/etc/hostname').read()\n    return sum(xs)").label == "error"


def test_an_answer_without_prefix_needs_a_block() -> None:
    assert program("I cannot do that.", entry_point="f") is None
    assert program("```\nx = 1\n```", entry_point="f") == "x = 1\n"


def test_a_main_guard_does_not_run_and_input_is_empty() -> None:
    answer = "```\ndef total(xs):\n    return sum(xs)\nif __name__ == '__main__':\n    raise SystemExit(3)\n```"
    assert judged(answer).label == "passed"
    assert "EOF" in judged("    input()\n    return sum(xs)").explanation


def test_a_case_without_tests_is_unscored_and_a_failed_answer_errored() -> None:
    judge = scorer("code_tests")
    assert isinstance(judge(user_case("c", "?"), Completion(text="x", model="m")), Unscored)
    assert isinstance(judge(case(), Completion(text="", model="m", error="lost")), Errored)


def test_a_sandbox_that_fails_is_errored_and_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise SandboxError("no namespaces here")

    monkeypatch.setattr(code_tests, "run_sandboxed", fail)
    outcome = scorer("code_tests")(case(), Completion(text="    return sum(xs)", model="m"))
    assert isinstance(outcome, Errored) and "no namespaces" in outcome.error


def test_the_digest_follows_the_limits() -> None:
    assert scorer("code_tests").digest != scorer("code_tests", limits=SandboxLimits()).digest
