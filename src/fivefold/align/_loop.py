"""Gradient descent that can be killed: the loop that every kind of training on fixed data shares.

Read `descend` first. What a step's gradient is, its caller says (`over_rows` helps it); the learning rate, clipping,
checkpoints and exact resume are here. Beside it: `_masters` (weights in half precision), `_processes` (several
processes), `_leaving` (EMA, early stop), `sinks`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from fivefold.align import _checkpoint, _ranges
from fivefold.align._adapter import Lora
from fivefold.align._leaving import Leaving, Measure
from fivefold.align._processes import ALONE, Processes
from fivefold.align.sinks import MetricSink, check_sinks, opened
from fivefold.errors import TrainingError, UsageError
from fivefold.runtime.crew import side_by_side


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
    gradient_checkpointing: bool = False
    """Compute decoder layers again in the backward pass instead of keeping what is inside them: far less memory for
    activations, about a third more time; the same losses and gradients (`_recompute`)."""
    reuse_frozen: bool = True
    """Keep the output of the layers below the first adapter (memory: tokens x width), so that it is computed once."""
    lr: float = 3e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = "cosine"
    """Shape of the learning rate after warm-up. cosine and linear fall to `lr_end`; wsd (warm-up, stable, decay) stays up
    and falls in the last `decay` of the steps; inverse_sqrt falls with the root of the steps since the warm-up began."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    lr_end: float = 0.0
    """Learning rate after the last step of cosine, linear and wsd, as a share of the peak."""
    decay: float = 0.2
    """Share of the steps in which wsd falls."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay rates."""
    grad_clip: float = 1.0
    """Largest norm of a step's gradient."""
    ema: float | None = None
    """Decay of a running average of the trained weights (0.99, say), which is then what a run leaves; None: no average."""
    check_steps: int | None = None
    """Steps between measurements of the loss on held-out data, where a trainer is given any; the best weights are left."""
    patience: int | None = None
    """Stop early after so many measurements in a row without a lower held-out loss; None: never."""
    least_gain: float = 0.0
    """By how much the held-out loss has to fall to count as lower."""
    seed: int = 0
    """Fixes the adapter's start, the order of the data and dropout."""
    checkpoint_seconds: float = 30.0
    """Time between checkpoints."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints, beside the time."""
    log_to: tuple[str, ...] = ()
    """Where each step's numbers go beside the record: lines, tensorboard, wandb, mlflow (`align.sinks`)."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "epochs", "batch_items", "row_tokens", "check_steps", "patience", "checkpoint_steps")
        _ranges.numbers(self, "lr", "weight_decay", "least_gain", "checkpoint_seconds", below=True)
        _ranges.numbers(self, "warmup", "lr_end", "decay", most=1.0)
        _ranges.numbers(self, "grad_clip", above=True)
        _ranges.numbers(self, "ema", above=True, most=1.0, below=True)
        _ranges.words(self, "schedule", "reference")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise UsageError("betas are no decay rates", expected="two numbers from 0 to below 1", got=self.betas)


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
"""Adds the gradient of a 0-based step; returns its loss, metrics, and the tokens that were computed, over all processes."""


@dataclass(frozen=True)
class Part:
    """What one row adds to a step: loss (with its graph) and metrics times the row's share of the batch, and the tokens
    computed."""

    loss: Tensor
    metrics: Mapping[str, float]
    tokens: int


@dataclass(frozen=True)
class Done:
    """What a finished descent leaves: metrics of every step, tokens computed, seconds taken, and which weights."""

    history: list[dict[str, float]]
    tokens: int
    seconds: float
    weights: Mapping[str, Any] = field(default_factory=dict)


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
    together: Processes = ALONE,
    measure: Measure | None = None,
    sinks: Sequence[MetricSink] = (),
) -> Done:
    """Take `total` steps on `params`, from the checkpoint in `out` where there is one. `spent` seconds came before.

    `backward` adds this process's gradients; those of weights in half precision move to float32 copies, which the steps are
    taken on (`_masters`). `measure` is the loss on held-out data. Files, sinks and `on_step` are the
    first process's. Raises TrainingError when a loss or gradient is no longer finite, or when the checkpoint belongs to
    another run.
    """
    began, tokens, history = time.monotonic() - spent, 0, list[dict[str, float]]()
    optimizer, masters = together.prepared(params, config)
    leaving = Leaving(masters, config, measure, together)
    if (state := _checkpoint.load(out, key)) is not None:
        tokens, history = restore(state, masters.params, optimizer, together)
        leaving.restore(state["leaving"])
        began -= state["seconds"]
    together.agree("how far the run has come", (key, len(history)))
    together.align(masters.params)
    masters.round()
    kept, names = time.monotonic(), config.log_to if together.first else ()
    watched = opened(names, out, key[:16], len(history), sinks if together.first else ())
    with masters.gathering(), watched as watching:
        for step in range(len(history), total):
            if leaving.over:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total, config)
            loss, metrics, n = backward(step)
            norm = together.step(optimizer, masters, config.grad_clip)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise diverged(step, loss, norm, history)
            tokens += n
            rate = learning_rate(step, total, config)
            history.append({"loss": loss, "grad_norm": norm, "lr": rate, **metrics, **leaving.after(step, total)})
            seconds = time.monotonic() - began
            for sink in watching:
                sink.write(step + 1, {**history[-1], "tokens": tokens, "seconds": seconds})
            if together.keeping(checkpoint_due(step, total, time.monotonic() - kept, config)):
                found = snapshot(key, masters.params, optimizer, history, tokens, seconds, together)
                found["leaving"] = leaving.state()
                if together.first:
                    _checkpoint.save(out, found)
                kept = time.monotonic()
            if on_step and together.first:
                on_step(progress_of(step + 1, total, loss, tokens, seconds))
    return Done(history, tokens, time.monotonic() - began, leaving.settle(len(history)))


def over_rows(
    costs: Sequence[int], one_row: Callable[[int], Part], together: Processes, seed: str, apart: Apart | None = None
) -> tuple[float, dict[str, float], int]:
    """Work off a step's rows of known costs, each process its share; what they add up to, the same in all processes.

    Adds the rows' gradients, where gradients are asked for. Each row has random numbers (dropout) of its own, fixed by
    `seed` and its place, so it matters not which process computes it. Rows that draw none can be computed side by side
    (`apart`).
    """

    def computed(i: int, weight: float = 1.0) -> Part:
        torch.manual_seed(int(hashlib.sha256(f"{seed}/{i}".encode()).hexdigest()[:15], 16))
        part = one_row(i)
        if torch.is_grad_enabled():
            together.backward(part.loss * weight)
        return replace(part, loss=part.loss.detach().cpu())

    mine = together.mine(costs)
    parts = [computed(i) for i in mine] if apart is None else apart.computed([partial(one_row, i) for i in mine])
    for i in together.idle(costs):
        computed(i, 0.0)
    total, metrics, tokens = 0.0, dict[str, float](), 0
    for part in together.gathered(dict(zip(mine, parts, strict=True))):
        total += part.loss.item()
        tokens += part.tokens
        for name, value in part.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
    return total, metrics, tokens


@dataclass(frozen=True)
class Apart:
    """Rows on threads of their own, each with its own gradient of `params`; these are added in the order of the rows, so
    that sums are the same every time."""

    workers: int
    params: Sequence[torch.nn.Parameter]

    def computed(self, rows: Sequence[Callable[[], Part]]) -> list[Part]:
        """The rows' parts without their graphs; their gradients are added."""
        found = side_by_side([partial(self._one, row) for row in rows], self.workers)
        for _, gradients in found:
            for p, gradient in zip(self.params, gradients, strict=True):
                if gradient is not None:
                    p.grad = gradient if p.grad is None else p.grad.add_(gradient)
        return [part for part, _ in found]

    def _one(self, row: Callable[[], Part]) -> tuple[Part, Sequence[Tensor | None]]:
        part = row()
        none: Sequence[Tensor | None] = [None] * len(self.params)
        gradients = torch.autograd.grad(part.loss, self.params, allow_unused=True) if part.loss.requires_grad else none
        return replace(part, loss=part.loss.detach()), gradients


def check_settings(config: TrainConfig, held_out: bool) -> None:
    """Raise UsageError for settings that would be silently without effect, or make no sense."""
    check_sinks(config.log_to)
    if config.patience is not None and config.check_steps is None:
        raise UsageError(
            "early stop needs measurements", expected="check_steps beside patience", got="check_steps=None"
        )
    if (config.check_steps is not None) != held_out:
        raise UsageError(
            "measuring on held-out data needs the data and how often",
            expected="held-out items and check_steps, or neither",
            got=f"check_steps={config.check_steps}, {'some' if held_out else 'no'} held-out items",
        )


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate of a 0-based step: linear warm-up, then the schedule."""
    warm = max(1, round(config.warmup * total))
    if step < warm:
        return config.lr * (step + 1) / warm
    left = 1 - (step - warm) / max(1, total - warm)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(warm / (step + 1))
    shape = {
        "cosine": 0.5 * (1 - math.cos(math.pi * left)),
        "linear": left,
        "wsd": min(1.0, (total - step) / max(1.0, config.decay * total)),
    }[config.schedule]
    return config.lr * (config.lr_end + (1 - config.lr_end) * shape)


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
    together: Processes = ALONE,
) -> dict[str, Any]:
    """Everything that the next step depends on, undivided: a run may go on with another number of processes."""
    return {
        "key": key,
        "params": together.whole(params),
        "optimizer": together.moments(optimizer),
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "history": history,
        "tokens": tokens,
        "seconds": seconds,
    }


def restore(
    state: Mapping[str, Any],
    params: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    together: Processes = ALONE,
) -> tuple[int, list[dict[str, float]]]:
    """Put a snapshot back; returns tokens and history so far. The data's position is the length of the history."""
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(together.part(state["params"][name], p))
    together.put_back(optimizer, state["optimizer"])
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
