"""The fine-tuning attack from end to end on a tiny model: trained, measured, recorded, and what its numbers do not say."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from _tiny import tiny_folder
from fivefold.evidence import Store
from fivefold.thread import tuning
from fivefold.thread.tuning import tune_and_attack
from fivefold.types import Case, Completion, Scored


class Says:
    """A judge with one word."""

    name, digest = "says", hashlib.sha256(b"says").hexdigest()

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, case: Case, completion: Completion) -> Scored:
        return Scored(value=self.value, label="x", judge=self.digest)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    return tmp_path


def attacked(home: Path, monkeypatch: pytest.MonkeyPatch, says: float) -> dict[str, Any]:
    monkeypatch.setattr(tuning, "judge_of_answers", lambda: Says(says))
    spec = str(tiny_folder(home / "model"))
    return tune_and_attack(spec, examples=2, behaviours=2, steps=[0, 1], max_new_tokens=4)


def test_every_number_of_steps_is_trained_and_measured(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = attacked(home, monkeypatch, 0.0)
    assert [m.slice["steps"] for m in result["measurements"]] == ["0", "1"] and result["steps_until_half"] is None
    assert result["notes"] == []
    with Store.open() as store:
        assert {m.id for m in store.measurements()} >= {m.id for m in result["measurements"]}


def test_a_model_that_complied_before_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = attacked(home, monkeypatch, 1.0)
    assert result["steps_until_half"] == 0 and len(result["measurements"]) == 1
    assert "before anything was trained" in result["notes"][0]
