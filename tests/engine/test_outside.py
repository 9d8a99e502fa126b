"""Inspect tasks that others wrote, on our models: every sample comes back as scored, unscored or errored."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="needs the extra 'eval'")

from fivefold.engine.outside import outcome_of, run_task
from fivefold.errors import CapabilityError, FivefoldError
from fivefold.runtime.backends.scripted import load
from fivefold.types import Errored, Scored, Unscored

TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Target, accuracy, includes, mean, scorer
from inspect_ai.solver import TaskState, generate

@scorer(metrics=[{"length": [mean()], "polite": [accuracy()]}])
def parts():
    async def score(state: TaskState, target: Target) -> Score:
        if "boom" in state.input_text:
            raise RuntimeError("the judge fell over")
        text = state.output.completion
        return Score(value={"length": len(text), "polite": "N" if "?" in text else "C"})
    return score

@task
def small(extra: str = "") -> Task:
    samples = [Sample(input=i + extra, target="4", id=str(n)) for n, i in enumerate(["2+2", "say 4", "why?", "boom"])]
    return Task(dataset=samples, solver=generate(), scorer=[includes(), parts()], version=7)
"""


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "others.py"
    path.write_text(TASK)
    return f"{path}@small"


def test_outcomes_by_scorer_and_part(task: str, tmp_path: Path) -> None:
    result = run_task(load("echo"), task, log_dir=tmp_path / "logs")
    assert set(result.outcomes) == {"includes", "parts/length", "parts/polite"} and result.version == "7"
    includes, polite = result.outcomes["includes"], result.outcomes["parts/polite"]
    assert [o.value for o in (includes["0"], includes["1"]) if isinstance(o, Scored)] == [0.0, 1.0]
    assert isinstance(polite["2"], Unscored) and isinstance(polite["1"], Scored)
    assert isinstance(includes["3"], Errored) and "fell over" in includes["3"].error
    assert (
        isinstance(result.outcomes["parts/length"]["1"], Scored) and result.outcomes["parts/length"]["1"].value == 5.0
    )
    assert result.log_path.suffix == ".eval" and result.log_path.is_file()


def test_limit_epochs_and_arguments(task: str, tmp_path: Path) -> None:
    result = run_task(load("echo"), task, log_dir=tmp_path / "logs", limit=1, epochs=2, args={"extra": " is 4"})
    assert set(result.outcomes["includes"]) == {"0", "0#2"}
    assert all(isinstance(o, Scored) and o.value == 1.0 for o in result.outcomes["includes"].values())


def test_a_model_that_fails_is_errored_everywhere(task: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text('- {match: "", error: "connection lost"}\n')
    result = run_task(load(str(rules)), task, log_dir=tmp_path / "logs", limit=2)
    outcomes = [o for per in result.outcomes.values() for o in per.values()]
    assert outcomes and all(isinstance(o, Errored) and "connection lost" in o.error for o in outcomes)


def test_a_task_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FivefoldError, match="no_such_task"):
        run_task(load("echo"), "no_such_package/no_such_task", log_dir=tmp_path / "logs")


def test_a_model_that_cannot_speak_is_refused(tmp_path: Path) -> None:
    class Mute:
        name, fingerprint, capabilities = "mute", "0" * 64, frozenset()

    with pytest.raises(CapabilityError):
        run_task(Mute(), "x", log_dir=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("C", 1.0), ("I", 0.0), ("P", 0.5), (True, 1.0), (3, 3.0), (0.25, 0.25), ("no", 0.0)],
)
def test_values(value: object, expected: float) -> None:
    outcome = outcome_of(value, judge="j")
    assert isinstance(outcome, Scored) and outcome.value == expected


@pytest.mark.parametrize("value", ["N", "maybe", "", float("nan"), None, [1]])
def test_what_is_no_number_is_not_zero(value: object) -> None:
    assert isinstance(outcome_of(value, judge="j"), Unscored)
