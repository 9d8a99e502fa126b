"""Random training items, the trainer's smallest settings, runs that end early, and policies that have moved."""

from __future__ import annotations

import random
from typing import Any

import torch

from fivefold.align._adapter import Lora, trainable, trainable_copy
from fivefold.align._pack import Item
from fivefold.align.train import TrainConfig


def random_items(n: int, answers: int = 2, seed: int = 0) -> list[Item]:
    """Items with a shared start, prompts and answers of different lengths, some answers sharing their first tokens."""
    rng = random.Random(seed)
    system = tuple(rng.randrange(3, 300) for _ in range(5))

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 300) for _ in range(rng.randint(low, high)))

    items = []
    for i in range(n):
        start = tokens(0, 2)
        items.append(
            Item(
                prompt=(*system, *tokens(1, 6)),
                answers=tuple((*start, *tokens(1, 7)) for _ in range(answers)),
                group="even" if i % 2 == 0 else "odd",
                label=i % 3 != 0,
            )
        )
    return items


def small(**changes: Any) -> TrainConfig:
    """A few short steps."""
    settings: dict[str, Any] = {
        "adapter": Lora(r=4, alpha=8, dropout=0.1),
        "batch_items": 3,
        "row_tokens": 40,
        "lr": 1e-2,
        "epochs": 2,
        **changes,
    }
    return TrainConfig(**settings)


class Stop(Exception):
    """Ends a run from its own watcher."""


def breaking_at(step: int) -> Any:
    """A watcher that ends a run after so many steps."""

    def watch(progress: Any) -> None:
        if progress.step == step:
            raise Stop

    return watch


def policy(model: Any, **changes: Any) -> Any:
    """A model to train with an adapter that is not that of the start."""
    torch.manual_seed(0)
    trained = trainable_copy(model.module, Lora(**{"r": 4, "alpha": 12, **changes}))
    move(trained)
    return trained


def move(trained: Any) -> None:
    """Give all that is trained other numbers."""
    with torch.no_grad():
        for p in trainable(trained).values():
            p.normal_(0, 0.1)
