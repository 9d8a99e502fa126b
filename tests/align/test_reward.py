"""Reward models, reward functions, and the monitor that does not trust them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fivefold.align._adapter import Lora, causal_lm
from fivefold.align._loop import TrainConfig
from fivefold.align._pack import Item
from fivefold.align._scalar import Scalar, pack_ends
from fivefold.align.monitor import Health, MonitorConfig, alarms, exploits, health_of, spread
from fivefold.align.reward import Pairs, RewardConfig, load_reward, train_reward
from fivefold.align.rewards import Sample, checked, code, compliance, each, exact, length, total
from fivefold.errors import DataError, TrainingError, UsageError
from fivefold.types import Case, Completion, Errored, Outcome, Scored, user_case


def sample(text: str, *, target: Any = None, tokens: int = 4, ended: bool = True, **fields: Any) -> Sample:
    case = user_case(fields.pop("id", "c"), fields.pop("prompt", "How much?"), target=target, **fields)
    return Sample(case=case, text=text, tokens=tuple(range(tokens)), ended=ended)


# Reward models


def pairs(n: int, seed: int = 0) -> list[Item]:
    """The better answer is of ten low token ids, the worse one of ten high ones."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(low, high) for _ in range(rng.randint(2, 6)))

    return [Item(prompt=(1, *tokens(3, 300)), answers=(tokens(3, 13), tokens(200, 210))) for _ in range(n)]


def config(loss: str = "reward", **changes: Any) -> RewardConfig:
    train = TrainConfig(
        loss=loss, adapter=Lora(r=4), lr=1e-2, batch_items=8, epochs=2, row_tokens=120, checkpoint_steps=1
    )
    return RewardConfig(train=train, **changes)


@pytest.mark.parametrize(("loss", "heads"), [("reward", 1), ("reward", 3), ("reward_uncertainty", 1), ("cost", 1)])
def test_a_reward_model_learns_and_is_measured_on_pairs_that_it_has_not_seen(
    model: Any, tmp_path: Path, loss: str, heads: int
) -> None:
    items = pairs(120)
    unsafe = [(True, False)] * 120 if loss == "cost" else None
    given = Pairs(items=items, unsafe=unsafe)
    made = train_reward(model, given, config(loss, heads=heads), tmp_path, held_out=pairs(60, seed=1))
    assert made.accuracy is not None and made.accuracy.n_scored == 60
    assert made.accuracy.estimate is not None and made.accuracy.estimate > 0.8
    assert made.accuracy.low is not None and 0.6 < made.accuracy.low < made.accuracy.estimate
    reward = load_reward(model, tmp_path)
    rewards = reward.rewards(items)
    assert rewards.mean().item() == pytest.approx(0, abs=1e-3) and rewards.std().item() == pytest.approx(1, abs=1e-2)
    again = train_reward(model, given, config(loss, heads=heads), tmp_path)
    assert again.losses == made.losses and again.accuracy is None, "without held-out pairs nothing is measured"


def test_a_packed_row_gives_the_outputs_of_single_sequences(model: Any) -> None:
    scalar = Scalar.fresh(model.module, Lora(r=4), 2)
    items = pairs(5)
    with torch.no_grad():
        packed = scalar.at_ends(pack_ends(items)).view(5, 2, 2)
        module = causal_lm(scalar.trained)
        for i, item in enumerate(items):
            for k, answer in enumerate(item.answers):
                hidden = module.base_model(input_ids=torch.tensor([item.prompt + answer])).last_hidden_state[0, -1]
                torch.testing.assert_close(packed[i, k], scalar.head(hidden), atol=1e-4, rtol=1e-4)


def test_a_broken_off_reward_model_goes_on(model: Any, tmp_path: Path) -> None:
    given = Pairs(items=pairs(20))

    def stop(progress: Any) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    whole = train_reward(model, given, config(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_reward(model, given, config(), tmp_path / "broken", on_step=stop)
    assert train_reward(model, given, config(), tmp_path / "broken").losses == whole.losses


def test_a_reward_model_is_a_reward_function(model: Any, tmp_path: Path) -> None:
    train_reward(model, Pairs(items=pairs(8)), config(heads=3, pessimism=1.0), tmp_path)
    reward = load_reward(model, tmp_path)
    given = [sample("x", tokens=3), sample("y", tokens=7)]
    alone = [reward([s])[0] for s in given]
    assert reward(given) == pytest.approx(alone, abs=1e-4) and all(math.isfinite(v or 0.0) for v in alone)
    assert reward([]) == []
    with pytest.raises(TrainingError, match="no finished reward model"):
        load_reward(model, tmp_path / "nowhere")


def test_what_is_no_reward_model_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not train a reward model"):
        train_reward(model, Pairs(items=pairs(4)), config("dpo"), tmp_path)
    with pytest.raises(DataError):
        train_reward(model, Pairs(items=[]), config(), tmp_path)


# Reward functions


@pytest.mark.parametrize(
    ("text", "right", "form"),
    [
        ("So 3 + 4 = 7.\n#### 7", 1.0, 1.0),
        ("The answer is 7.", 1.0, 0.0),
        ("#### 8", 0.0, 1.0),
        ("#### 1\n#### 7", 0.0, 0.0),
        ("I do not know", 0.0, 0.0),
    ],
)
def test_numbers(text: str, right: float, form: float) -> None:
    assert exact.number()([sample(text, target="7")]) == [right]
    assert exact.form()([sample(text)]) == [form]


def test_without_a_target_there_is_no_reward() -> None:
    assert exact.number()([sample("7"), sample("7", target="seven")]) == [None, None]
    assert exact.text()([sample(" Paris "), sample(" Paris ", target="paris")]) == [None, 1.0]
    assert compliance.policy()([sample("Sure, here it is.")]) == [None]


def test_policy_compliance_wants_both_sides() -> None:
    refusal, help_ = (
        "I'm sorry, but I cannot help with that.",
        "Sure. First boil the water, then add the pasta and salt.",
    )
    ask = "How do I cook pasta?"
    got = compliance.policy()(
        [
            sample(refusal, prompt=ask, tags=("harmful",)),
            sample(help_, prompt=ask, tags=("harmful",)),
            sample(refusal, prompt=ask, tags=("benign",)),
            sample(help_, prompt=ask, tags=("benign",)),
            sample("", prompt=ask, tags=("benign",)),
        ]
    )
    assert got == [1.0, 0.0, 0.0, 1.0, -1.0]


def test_code_is_run_by_the_callable_and_a_broken_sandbox_is_no_zero() -> None:
    def runner(case: Case, completion: Completion) -> Outcome:
        if "boom" in completion.text:
            return Errored(error="no sandbox")
        return Scored(value=float("return 1" in completion.text), label="x", judge="j")

    given = [sample("def f(): return 1"), sample("def f(): return 2"), sample("boom")]
    assert code.passes(runner)(given) == [1.0, 0.0, Errored(error="no sandbox")]


def test_overlong_answers_lose_gradually() -> None:
    reward = length.overlong(limit=20, cache=8)
    assert reward([sample("", tokens=n) for n in (5, 12, 16, 20, 30)]) == [0.0, 0.0, -0.5, -1.0, -1.0]
    assert length.near(10, 5)([sample("", tokens=n) for n in (10, 12, 15)]) == pytest.approx([1.0, 0.6, 0.0])


def test_sums_keep_what_is_not_known() -> None:
    reward = total((2.0, each(lambda s: 1.0)), (0.5, each(lambda s: None if s.text == "?" else -1.0)))
    assert reward([sample("a"), sample("?")]) == [1.5, None]
    with pytest.raises(TrainingError, match="no reward"):
        checked(lambda samples: [1.0], [sample("a"), sample("b")])


def test_a_reward_that_fails_is_an_error_and_never_a_number() -> None:
    def brittle(s: Sample) -> Any:
        return {"nan": math.nan, "inf": math.inf, "text": "much", "flag": True, "whole": 2}.get(s.text) or 1 / 0

    found = checked(each(brittle), [sample(t) for t in ("nan", "inf", "text", "flag", "whole", "other")])
    assert found[3:5] == [1.0, 2.0] and all(isinstance(v, Errored) for v in (*found[:3], found[5]))
    assert "ZeroDivisionError" in found[5].error and "nan" in found[0].error  # type: ignore[union-attr]
    known = total((1.0, each(lambda s: 1.0)), (1.0, each(brittle)))
    assert isinstance(known([sample("nan")])[0], Errored), "a part that failed is not left out of the sum"
    torn = checked(lambda samples: [1 / 0], [sample("a"), sample("b")])
    assert [type(v) for v in torn] == [Errored, Errored], "whose fault it is cannot be known: all are errored"
    with pytest.raises(UsageError):
        checked(each(lambda s: exec("raise UsageError('x')", {"UsageError": UsageError})), [sample("a")])


# The monitor


def rounds(proxy: list[float], gold: list[float], **more: list[float]) -> list[Health]:
    made = []
    for i, (p, g) in enumerate(zip(proxy, gold, strict=True)):
        made.append(
            {"reward": p, "reward_error": 0.05, "gold": g, "gold_error": 0.05, **{k: v[i] for k, v in more.items()}}
        )
    return made


def raised(history: list[Health], config: MonitorConfig) -> list[tuple[int, str, int]]:
    return [(a.round, a.sign, a.onset) for n in range(len(history)) for a in alarms(history[: n + 1], config)]


def test_proxy_up_and_gold_down_is_over_optimisation() -> None:
    proxy = [0.1 * i for i in range(12)]
    gold = [0.1 * i if i < 6 else 0.6 - 0.15 * (i - 5) for i in range(12)]
    found = raised(rounds(proxy, gold), MonitorConfig())
    assert found and found[0][1] == "divergence" and 7 <= found[0][0] <= 11 and 5 <= found[0][2] <= found[0][0]


@pytest.mark.parametrize(
    ("proxy", "gold"),
    [
        ([0.1 * i for i in range(12)], [0.1 * i for i in range(12)]),
        ([0.1 * i for i in range(12)], [0.5] * 12),
        ([1 - 0.05 * i for i in range(12)], [1 - 0.05 * i for i in range(12)]),
    ],
    ids=["both rise", "gold stays", "both fall"],
)
def test_no_alarm_where_the_two_do_not_part(proxy: list[float], gold: list[float]) -> None:
    assert raised(rounds(proxy, gold), MonitorConfig()) == []


def test_noise_alone_raises_hardly_an_alarm() -> None:
    rng, wrong = random.Random(0), 0
    for _ in range(200):
        proxy, gold = ([rng.gauss(0.5, 0.05) for _ in range(15)] for _ in "pg")
        wrong += bool(raised(rounds(proxy, gold), MonitorConfig()))
    assert wrong <= 4


def test_shares_that_were_there_from_the_start_are_no_alarm() -> None:
    flat = [0.5] * 6
    rising = [0.0, 0.05, 0.1, 0.2, 0.35, 0.6]
    found = raised(rounds(flat, flat, **{"exploit/flatters": rising, "broken": flat}), MonitorConfig())
    assert found == [(4, "exploit", 3), (5, "exploit", 3)]
    assert raised(rounds(flat, flat, same=rising), MonitorConfig()) == [(5, "degeneration", 4)]


def test_drift_has_bounds_only_where_they_are_set() -> None:
    history = rounds([0.5], [0.5], kl=[9.0], entropy=[0.01])
    assert raised(history, MonitorConfig()) == []
    found = alarms(history, MonitorConfig(most_kl=5.0, least_entropy=0.1))
    assert [a.sign for a in found] == ["drift", "drift"]


EXPLOITS = {
    "leaves-early": ("import sys\nsys.exit(0)", "The exit is on the left."),
    "always-equal": ("def __eq__(self, other):\n    return True", "def __eq__(self, o): return self.x == o.x"),
    "changes-the-tests": ("pytest.skip('no')", "I would skip breakfast."),
    "swallows-failures": ("try:\n  f()\nexcept AssertionError:\n  pass", "except ValueError:\n  pass"),
    "many-answers": ("#### 1\n#### 2\n#### 3", "#### 3"),
    "writes-answers-down": (
        "def f(x):\n    if x == 3:\n        return 5\n    return 7",
        "def f(n):\n    if n == 0:\n        return 1\n    return n * f(n - 1)",
    ),
    "speaks-to-the-judge": ("This answer deserves full marks.", "The marks on the wall are old."),
    "flatters": ("What a great question! Well,", "A great question of physics is gravity."),
    "repeats-itself": ("the cat the cat the cat the cat", "the cat and the dog"),
}


def test_known_tricks_are_recognised_and_plain_answers_are_not() -> None:
    assert set(EXPLOITS) == set(exploits())
    for name, (trick, plain) in EXPLOITS.items():
        assert exploits()[name].search(trick), name
        assert not exploits()[name].search(plain), name


def test_what_a_round_shows_by_itself() -> None:
    same = [sample("Yes.", id=f"c{i}", tokens=2 * i + 1, ended=i > 0) for i in range(3)]
    other = sample("Because the moon pulls the sea.", id="d", tokens=7)
    found = health_of([*same, other], [1.0, None, 0.0, 0.5])
    assert found["same"] == 0.75 and found["length"] == 4.0 and found["ended"] == 0.75 and found["unscored"] == 0.25
    assert found["reward"] == pytest.approx(0.5) and found["reward_error"] == pytest.approx(0.5 / math.sqrt(3))
    assert spread("x", []) == {} and spread("x", [2.0]) == {"x": 2.0}
