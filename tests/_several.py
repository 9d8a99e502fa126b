"""Runs of the trainers that several processes share, small enough to be compared with one process's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from _items import move, random_items, small
from fivefold.align._adapter import Lora, save_trained, trainable_copy
from fivefold.align._pack import mismatched
from fivefold.align.distil import distil
from fivefold.align.process import ProcessConfig, train_steps
from fivefold.align.reward import Pairs, RewardConfig, train_reward
from fivefold.align.rewards import Sample, each
from fivefold.align.rl import RLConfig, reinforce
from fivefold.align.train import TrainConfig, train
from fivefold.types import user_case

CASES = [
    user_case(f"c{i}", text) for i, text in enumerate(["fox", "dog jumps", "What is Paris?", "quartz", "a b", "the"])
]


def labelled(n: int) -> Any:
    from fivefold.align.data.steps import Steps

    items = random_items(n, 1)
    return [Steps(item=i, ends=(1, len(i.answers[0])), labels=(k % 2 == 0, k % 3 == 0)) for k, i in enumerate(items)]


def several(loss: str, **changes: Any) -> Any:
    """More rows than processes, dropout, an odd last batch."""

    def run(model: Any, out: Path) -> None:
        answers = 1 if loss in ("sft", "kto") else 2
        items = random_items(13, answers)
        given = {"epochs": 2, "batch_items": 6, "row_tokens": 24, "checkpoint_steps": 1, **changes}
        held_out = random_items(5, answers, seed=1) if "check_steps" in changes else ()
        train(model, mismatched(items) if loss == "kto" else items, small(loss=loss, **given), out, held_out=held_out)

    return run


def train_rewards(model: Any, out: Path) -> None:
    given = TrainConfig(loss="reward", adapter=Lora(r=4), lr=1e-2, batch_items=6, row_tokens=24)
    train_reward(model, Pairs(items=random_items(13, 2)), RewardConfig(train=given), out)


def train_process(model: Any, out: Path) -> None:
    given = TrainConfig(loss="process_reward", adapter=Lora(r=4), lr=1e-2, batch_items=6, row_tokens=24)
    train_steps(model, labelled(13), ProcessConfig(train=given), out)


def distilled(model: Any, out: Path) -> None:
    """A student with dropout, towards its own base with another adapter."""
    torch.manual_seed(7)
    other = trainable_copy(model.module, Lora(r=4, alpha=40))
    move(other)
    teacher = model.with_adapter(str(save_trained(other, out / "teacher")), name="teacher")
    given = {"epochs": 2, "batch_items": 6, "row_tokens": 24, "checkpoint_steps": 1}
    distil(model, teacher, random_items(13, 1), small(loss="distillation", **given), out)


def reinforced(loss: str, of_train: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    """Three rounds of learning from rewards, with more rows than processes, an odd number of prompts, a gold reward, and
    samples that are put into the wrong case where two processes mix up whose are whose."""

    def run(model: Any, out: Path, on_round: Any = None) -> None:
        settings: dict[str, Any] = {"adapter": Lora(r=4), "batch_items": 5, "row_tokens": 60, "lr": 1e-2}
        settings |= {"checkpoint_steps": 1, "schedule": "constant", "warmup": 0.0, **(of_train or {})}
        sizes: dict[str, Any] = {"rounds": 3, "prompts": 5, "samples": 4, "max_new_tokens": 5, "critic": Lora(r=4)}
        config = RLConfig(train=TrainConfig(loss=loss, **settings), **{**sizes, **changes})
        cost = each(lambda s: 1.0 - _low(s)) if loss == "safe_rlhf" else None
        named: dict[str, Any] = {"reward_name": "low", "gold": each(_named), "cost": cost, "on_round": on_round}
        reinforce(model, CASES, each(_low), config, out, **named)

    return run


def _low(sample: Sample) -> float | None:
    """The share of tokens from the first half of the vocabulary; unknown for one of the cases."""
    return None if sample.case.id == "c3" else sum(t < 160 for t in sample.tokens) / len(sample.tokens)


def _named(sample: Sample) -> float:
    return len(sample.case.messages[0].content) + sum(sample.tokens) / 1000


def record_of(folder: Path) -> Any:
    names = ("training.json", "reward.json", "process.json", "reinforcement.json")
    (found,) = [folder / n for n in names if (folder / n).exists()]
    return json.loads(found.read_text())
