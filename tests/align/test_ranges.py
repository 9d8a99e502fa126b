"""Values that make no sense are refused where they are set, before any model is loaded or data read."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest

from fivefold.align._adapter import Lora
from fivefold.align._loop import TrainConfig
from fivefold.align.kl import KLControl
from fivefold.align.losses._base import config_of, load
from fivefold.align.monitor import MonitorConfig
from fivefold.align.options import overridden
from fivefold.align.process import ProcessConfig
from fivefold.align.recipes._organisms_base import OrganismConfig
from fivefold.align.recipes.grpo import GRPOConfig
from fivefold.align.recipes.preference import PreferenceConfig
from fivefold.align.recipes.rlhf import RLHFConfig
from fivefold.align.reward import RewardConfig
from fivefold.align.rl import RLConfig
from fivefold.errors import UnknownNameError, UsageError
from fivefold.registry import registry

SENSELESS: list[tuple[type, str, Any]] = [
    *((TrainConfig, name, 0) for name in ("epochs", "batch_items", "row_tokens", "check_steps", "patience")),
    (TrainConfig, "batch_items", -4),
    (TrainConfig, "epochs", 1.5),
    (TrainConfig, "batch_items", True),
    *((TrainConfig, name, -1e-4) for name in ("lr", "weight_decay", "least_gain", "warmup", "lr_end", "grad_clip")),
    *((TrainConfig, name, math.nan) for name in ("lr", "weight_decay", "warmup", "grad_clip", "checkpoint_seconds")),
    (TrainConfig, "lr", math.inf),
    (TrainConfig, "lr", "1e-4"),
    (TrainConfig, "warmup", 1.2),
    (TrainConfig, "grad_clip", 0.0),
    (TrainConfig, "ema", 1.0),
    (TrainConfig, "checkpoint_steps", 0),
    (TrainConfig, "betas", (0.9, 1.0)),
    (TrainConfig, "betas", (0.9,)),
    (Lora, "r", 0),
    (Lora, "alpha", -1),
    (Lora, "dropout", 1.0),
    (Lora, "from_layer", -1),
    *((RLConfig, name, 0) for name in ("rounds", "prompts", "samples", "max_new_tokens", "gold_every", "keep_every")),
    (RLConfig, "temperature", 0.0),
    (RLConfig, "resample", -1),
    (RLConfig, "critic_lr", -1.0),
    (KLControl, "weight", -0.1),
    (KLControl, "target", 0.0),
    (KLControl, "horizon", 0),
    (MonitorConfig, "level", 1.0),
    (MonitorConfig, "window", 0),
    (MonitorConfig, "same_share", 1.5),
    (RewardConfig, "heads", 0),
    (GRPOConfig, "overlong", -0.2),
    (PreferenceConfig, "answer_tokens", 0),
    (PreferenceConfig, "objectives", ()),
    (RLHFConfig, "prompt_tokens", 0),
]


@pytest.mark.parametrize(("kind", "name", "value"), SENSELESS, ids=[f"{k.__name__}-{n}={v}" for k, n, v in SENSELESS])
def test_a_senseless_value_is_refused_with_what_was_expected_and_what_came(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        kind(**{name: value})
    assert caught.value.expected and caught.value.got is not None
    assert name.split("_")[0].rstrip("s") in caught.value.what


@pytest.mark.parametrize(
    ("kind", "name", "value", "nearest"),
    [
        (TrainConfig, "schedule", "cosin", "cosine"),
        (TrainConfig, "reference", "strat", "start"),
        (Lora, "targets", "atention", "attention"),
        (MonitorConfig, "action", "rolback", "rollback"),
        (ProcessConfig, "score", "leest", "least"),
    ],
)
def test_a_word_that_is_not_known_is_refused_with_the_nearest(kind: Any, name: str, value: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=nearest):
        kind(**{name: value})


def test_every_default_and_the_edges_make_sense() -> None:
    for kind in (TrainConfig, Lora, RLConfig, KLControl, MonitorConfig, RewardConfig, GRPOConfig, RLHFConfig):
        kind()
    TrainConfig(lr=0.0, warmup=1.0, grad_clip=math.inf, ema=0.5, checkpoint_seconds=0.0)
    Lora(dropout=0.0, alpha=1)
    for name in registry("loss").names():
        load(name).Config()


def test_a_group_of_one_teaches_nothing() -> None:
    single = {"grpo", "dr_grpo", "dapo", "gspo", "rloo", "online_dpo", "safe_rlhf"}
    for name in (n for n in registry("loss").names() if load(n).KIND == "rollout"):
        train = TrainConfig(loss=name)
        if name not in single:
            RLConfig(train=train, samples=1)
            continue
        with pytest.raises(UsageError, match="compares an answer with others") as caught:
            RLConfig(train=train, samples=1)
        assert caught.value.got == "1"
        RLConfig(train=train, samples=2)


def test_flags_and_plans_run_into_the_same_refusals() -> None:
    with pytest.raises(UsageError, match="batch_items"):
        overridden(RLHFConfig(), ["sft.batch_items=0"])
    with pytest.raises(UsageError, match="compares an answer"):
        overridden(GRPOConfig(), ["rl.samples=1"])
    with pytest.raises(UsageError, match="dose"):
        overridden(OrganismConfig(), ["dose=2"])


def test_settings_are_checked_together_whatever_their_order() -> None:
    changes = ["rl.samples=1", "rl.train.loss=ppo", "rl.prompts=3"]
    made = [overridden(GRPOConfig(), order) for order in permutations(changes)]
    assert {(m.rl.samples, m.rl.train.loss, m.rl.prompts) for m in made} == {(1, "ppo", 3)}
    assert GRPOConfig().rl.samples > 1, "the defaults stay as they are"
    for order in permutations(["rl.samples=1", "rl.train.loss=ppo", "rl.train.loss=grpo"]):
        if order.index("rl.train.loss=grpo") > order.index("rl.train.loss=ppo"):
            with pytest.raises(UsageError, match="compares an answer"):
                overridden(GRPOConfig(), order)
        else:
            assert overridden(GRPOConfig(), order).rl.train.loss == "ppo"


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("dpo", {"beta": -0.1}),
        ("dpo", {"beta": math.nan}),
        ("dpo", {"beta": "0.1"}),
        ("ipo", {"per_token": 1}),
        ("distillation", {"divergence": "forwards"}),
        ("rmu", {"seed": 0.5}),
    ],
)
def test_options_of_a_loss_are_checked(loss: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="does not take this value"):
        config_of(load(loss), options)


def test_a_limit_of_a_cost_may_be_negative() -> None:
    assert config_of(load("safe_rlhf"), {"limit": -1.0}).limit == -1.0
