"""Rewards by name: built-in ones, functions of the user's own file, weights, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from fivefold.align._adapter import Lora
from fivefold.align._loop import TrainConfig
from fivefold.align.recipes.grpo import GRPOConfig, grpo, reward_of
from fivefold.align.rewards import Sample, checked
from fivefold.align.rewards.named import BUILT_IN, file_of, named, split
from fivefold.align.rl import RLConfig
from fivefold.errors import DataError, UnknownNameError, UsageError
from fivefold.score.sandbox import missing
from fivefold.types import Case, Errored, user_case

MINE = '''
"""My rewards."""
from dataclasses import dataclass

@dataclass
class Word:
    text: str = "please"

def polite(sample):
    """One sample at a time."""
    return float(Word().text in sample.text)

def longest(samples):
    """All of a round: 1 for the longest."""
    most = max(len(s.text) for s in samples)
    return [float(len(s.text) == most) for s in samples]

def brittle(sample):
    return 1 / len(sample.text.split("!")[1:])

def torn(samples):
    raise RuntimeError("the judge is away")

def two(sample, more):
    return 0.0

LIMIT = 3
'''


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)


def sample(text: str, *, tokens: int = 3, **fields: Any) -> Sample:
    return Sample(case=user_case("c", "What?", **fields), text=text, tokens=(1,) * tokens, ended=True)


def test_weights_add_up() -> None:
    reward = named(["number", "form*0.2", "overlong * -0.5"], limit=20)
    given = [sample("#### 7", target="7"), sample("7", target="7"), sample("#### 8", target="7", tokens=20)]
    assert checked(reward.reward, given) == pytest.approx([1.2, 1.0, 0.2 + 0.5])
    assert reward.name == "number × 1 + form × 0.2 + overlong × -0.5"


def test_every_built_in_reward_gives_a_number_or_says_what_it_needs() -> None:
    for name, built_in in BUILT_IN.items():
        reward = named([name], limit=20)
        fits = built_in.fits(user_case("c", "What?"))
        assert fits is not bool(built_in.needs) and built_in.says
        if not fits:
            assert checked(reward.reward, [sample("7")]) == [None]
            with pytest.raises(DataError, match=f"the reward {name} cannot score") as caught:
                reward.check([user_case("c", "What?")])
            assert built_in.needs in str(caught.value.expected)
        else:
            assert isinstance(checked(reward.reward, [sample("7")])[0], float)


def test_a_users_function_takes_one_sample_or_all(mine: str) -> None:
    given = [sample("please do it"), sample("no")]
    assert checked(named([f"{mine}:polite"], 8).reward, given) == [1.0, 0.0]
    assert checked(named([f"{mine}:longest*2", f"{mine}:polite*-1"], 8).reward, given) == [1.0, 0.0]


def test_a_users_function_that_fails_is_an_errored_sample(mine: str) -> None:
    values = checked(named([f"{mine}:brittle", "ended"], 8).reward, [sample("yes!"), sample("no")])
    assert values[0] == 2.0 and isinstance(values[1], Errored) and "ZeroDivisionError" in values[1].error
    values = checked(named([f"{mine}:torn"], 8).reward, [sample("a"), sample("b")])
    assert all(isinstance(v, Errored) and "the judge is away" in v.error for v in values)


def test_running_a_users_code_is_said_aloud_and_its_hash_is_in_the_name(
    mine: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fivefold.align"), "propagate", True)
    before = named([f"{mine}:polite*0.5"], 8).name
    assert any(mine in m and "with your rights" in m for m in caplog.messages)
    assert "mine.py:polite (sha256 " in before and before.endswith("× 0.5")
    Path(mine).write_text(MINE.replace("please", "thanks"))
    assert named([f"{mine}:polite*0.5"], 8).name != before


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("numbr", UnknownNameError, "number"),
        ("number*much", UsageError, "NAME*WEIGHT"),
        ("number*nan", UsageError, "NAME*WEIGHT"),
        ("*2", UsageError, "NAME*WEIGHT"),
        ("{mine}:polit", UnknownNameError, "polite"),
        ("{mine}:two", UsageError, "2 arguments"),
        ("{mine}:LIMIT", UsageError, "no function"),
        ("nowhere.py:f", UsageError, "no file nowhere.py"),
        ("{broken}:f", UsageError, "SyntaxError"),
        ("{text}:f", UsageError, "ends in .py"),
    ],
)
def test_what_is_no_reward_is_refused(mine: str, tmp_path: Path, spec: str, error: type[Exception], words: str) -> None:
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "notes.txt").write_text("no code")
    places = {"mine": mine, "broken": tmp_path / "broken.py", "text": tmp_path / "notes.txt"}
    with pytest.raises(error) as caught:
        named([spec.format(**places)], 8)
    assert words in str(caught.value)


def test_a_spec_is_taken_apart() -> None:
    assert split("form*0.2") == ("form", 0.2) and split("form") == ("form", 1.0)
    assert file_of("a/b.py:f*0.5") == Path("a/b.py") and file_of("number*2") is None
    with pytest.raises(UsageError, match="no reward to learn from"):
        named([], 8)


def test_the_recipes_own_weights_are_the_same_rewards() -> None:
    assert reward_of(GRPOConfig()).name == "number × 1 + form × 0.2 + overlong × 0.2"


def loop() -> GRPOConfig:
    train = TrainConfig(loss="grpo", adapter=Lora(r=2), lr=5e-3, batch_items=8)
    return GRPOConfig(rl=RLConfig(train=train, rounds=2, prompts=3, samples=3, max_new_tokens=5))


def test_grpo_learns_from_a_users_reward_on_cases_without_targets(model: Any, tmp_path: Path, mine: str) -> None:
    cases = [user_case(f"p{i}", f"What is {i}?") for i in range(6)]
    reward = named([f"{mine}:longest", "ended*0.5"], 5)
    found = grpo(model, cases[:4], out=tmp_path / "out", held_out=cases[4:], config=loop(), reward=reward)
    assert [m.metric for m in found.measurements] == ["reward/mine.py:longest", "ended"] * 2
    assert all(m.n_scored == 2 and len(m.judge) in (0, 64) for m in found.measurements)
    assert "gold" not in found.rows[0] and found.rows[0]["reward"] > 0
    with pytest.raises(DataError, match="the reward number cannot score"):
        grpo(model, cases, out=tmp_path / "other", config=loop())


def test_errors_are_in_the_measurements_and_in_what_is_said(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def moody(sample):\n    return 1.0 if sample.case.id != 'p0' else [][0]\n")
    cases = [user_case(f"p{i}", f"What is {i}?") for i in range(3)]
    reward = named([f"{path}:moody", "ended"], 5)
    found = grpo(model, cases, out=tmp_path / "out", held_out=cases, config=loop(), reward=reward)
    assert [(m.n_scored, m.n_errored) for m in found.measurements] == [(2, 1), (3, 0)] * 2
    assert any("the reward failed for 33.3% of the answers" in s for s in found.sentences)


@pytest.mark.skipif(bool(missing()), reason="this machine cannot isolate code")
def test_code_is_run_against_its_tests_in_the_sandbox() -> None:
    meta = {"tests": "assert add(2, 3) == 5\n", "entry_point": "add"}
    case = Case(id="c", messages=user_case("c", "Write add.").messages, metadata=meta)
    texts = (
        "```python\ndef add(a, b):\n    return a + b\n```",
        "```python\ndef add(a, b):\n    return a - b\n```",
        "no",
    )
    given = [Sample(case=case, text=t, tokens=(1,), ended=True) for t in texts]
    assert checked(named(["code"], 8).reward, given) == [1.0, 0.0, 0.0]
