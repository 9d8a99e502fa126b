"""Runs of the trainers that several processes share, small enough to be compared with one process's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _items import random_items, small
from fivefold.align._adapter import Lora
from fivefold.align._pack import mismatched
from fivefold.align.process import ProcessConfig, train_steps
from fivefold.align.reward import Pairs, RewardConfig, train_reward
from fivefold.align.train import TrainConfig, train


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


def record_of(folder: Path) -> Any:
    (found,) = [folder / n for n in ("training.json", "reward.json", "process.json") if (folder / n).exists()]
    return json.loads(found.read_text())
