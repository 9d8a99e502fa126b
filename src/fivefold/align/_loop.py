"""Gradient descent that can be killed: the loop that every kind of training on fixed data shares.

Read `descend` first. What a step's gradient is, its caller says; the learning rate, clipping, checkpoints and exact resume
are here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from fivefold.align import _checkpoint
from fivefold.align._adapter import Lora
from fivefold.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. Everything here, the data and the starting model fix the result on one machine."""

    loss: str = "sft"
    """Name of a module in `align/losses`."""
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of that module's Config."""
    reference: Literal["base", "start"] = "base"
    """Reference model of preference losses: without any adapter, or with the adapter that training starts from."""
    adapter: Lora | None = field(default_factory=Lora)
    """LoRA, or None to train every weight."""
    epochs: int = 1
    """Passes over the data."""
    batch_items: int = 16
    """Items per optimiser step."""
    row_tokens: int = 1024
    """Longest packed row; bounds memory."""
    reuse_frozen: bool = True
    """Keep the output of the layers below the first adapter (memory: tokens x width), so that it is computed once."""
    lr: float = 3e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up; cosine and linear end at zero."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay rates."""
    grad_clip: float = 1.0
    """Largest norm of a step's gradient."""
    seed: int = 0
    """Fixes the adapter's start, the order of the data and dropout."""
    checkpoint_seconds: float = 30.0
    """Time between checkpoints."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints, beside the time."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a watcher sees after each step."""

    step: int
    total: int
    loss: float
    tokens_per_second: float
    seconds_left: float


OnStep = Callable[[Progress], None]


Backward: TypeAlias = Callable[[int], tuple[float, dict[str, float], int]]
"""Adds the gradient of a 0-based step; returns its loss, metrics, and the tokens that were computed."""


@dataclass(frozen=True)
class Done:
    """What a finished descent leaves: metrics of every step, tokens computed, seconds taken."""

    history: list[dict[str, float]]
    tokens: int
    seconds: float


def descend(
    total: int,
    params: Mapping[str, torch.nn.Parameter],
    backward: Backward,
    config: TrainConfig,
    out: Path,
    key: str,
    *,
    spent: float = 0.0,
    on_step: OnStep | None = None,
) -> Done:
    """Take `total` steps on `params`, from the checkpoint in `out` where there is one. `spent` seconds came before.

    Raises TrainingError when a loss or gradient is no longer finite, or when the checkpoint belongs to another run.
    """
    began, tokens, history = time.monotonic() - spent, 0, list[dict[str, float]]()
    optimizer = torch.optim.AdamW(params.values(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    if (state := _checkpoint.load(out, key)) is not None:
        tokens, history = restore(state, params, optimizer)
        began -= state["seconds"]
    kept = time.monotonic()
    for step in range(len(history), total):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, config)
        loss, metrics, n = backward(step)
        norm = float(torch.nn.utils.clip_grad_norm_(params.values(), config.grad_clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise diverged(step, loss, norm, history)
        optimizer.step()
        optimizer.zero_grad()
        tokens += n
        history.append({"loss": loss, "grad_norm": norm, **metrics})
        seconds = time.monotonic() - began
        if checkpoint_due(step, total, time.monotonic() - kept, config):
            _checkpoint.save(out, snapshot(key, params, optimizer, history, tokens, seconds))
            kept = time.monotonic()
        if on_step:
            on_step(progress_of(step + 1, total, loss, tokens, seconds))
    return Done(history, tokens, time.monotonic() - began)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate of a 0-based step: linear warm-up, then the schedule down to zero after the last step."""
    warm = max(1, round(config.warmup * total))
    if step < warm:
        return config.lr * (step + 1) / warm
    left = 1 - (step - warm) / max(1, total - warm)
    shape = {"cosine": 0.5 * (1 - math.cos(math.pi * left)), "linear": left, "constant": 1.0}
    return config.lr * shape[config.schedule]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers fixed inside, and as they were outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def checkpoint_due(step: int, total: int, seconds: float, config: TrainConfig) -> bool:
    """Whether to write a checkpoint after 0-based `step`, `seconds` after the last one."""
    by_steps = config.checkpoint_steps is not None and (step + 1) % config.checkpoint_steps == 0
    return by_steps or seconds >= config.checkpoint_seconds or step + 1 == total


def snapshot(
    key: str,
    params: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
    tokens: int,
    seconds: float,
) -> dict[str, Any]:
    """Everything that the next step depends on."""
    return {
        "key": key,
        "params": {name: p.detach().cpu() for name, p in params.items()},
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "history": history,
        "tokens": tokens,
        "seconds": seconds,
    }


def restore(
    state: Mapping[str, Any], params: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """Put a snapshot back; returns tokens and history so far. The data's position is the length of the history."""
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(state["params"][name])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if state["rng_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["rng_cuda"])
    return int(state["tokens"]), list(state["history"])


def progress_of(step: int, total: int, loss: float, tokens: int, seconds: float) -> Progress:
    """Progress with speed and time left, from what has been done so far."""
    return Progress(
        step=step,
        total=total,
        loss=loss,
        tokens_per_second=tokens / max(seconds, 1e-9),
        seconds_left=seconds / step * (total - step),
    )


def diverged(step: int, loss: float, norm: float, history: Sequence[Mapping[str, float]]) -> TrainingError:
    """The error for a loss or gradient that is no longer finite."""
    before = [round(h["loss"], 4) for h in history[-5:]]
    return TrainingError(
        f"training diverged at step {step + 1}",
        expected="a finite loss and gradient",
        got=f"loss {loss}, gradient norm {norm}; losses before: {before or 'none'}",
        next_step="lower lr, or look for a broken example in this batch",
    )
