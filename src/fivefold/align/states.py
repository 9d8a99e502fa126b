"""Training on a model's inside: circuit breaking and unlearning move residual streams, not answers.

Each step takes a batch to move (harmful, forgotten) and one to keep (benign, retained), runs both through the trained
model and, with the adapter off, through the original, and gives the streams after chosen layers to a loss of kind
`activations`. The forward pass needs no vocabulary logits at all. Rows are at most `row_tokens` long, and several processes
share them. Source: Zou et al. 2024 (arXiv:2406.04313); Li et al. 2024 (arXiv:2403.03218).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fivefold.align._adapter import Lora, adapter_off, causal_lm, save_trained, trainable, trainable_copy
from fivefold.align._loop import OnStep, Part, TrainConfig, check_settings, descend, over_rows, seeded
from fivefold.align._pack import Item, Row, pack, rows_of
from fivefold.align._policy import answer_states, check_packing
from fivefold.align._processes import processes
from fivefold.align.losses._base import Activations, LossOutput, config_of, load
from fivefold.align.train import TrainResult, batches_of, check_items, finish, finished, run_key
from fivefold.errors import UsageError
from fivefold.runtime._structure import decoder_layers
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.types import digest


def _training() -> TrainConfig:
    return TrainConfig(loss="circuit_breaker", adapter=Lora(r=16, alpha=16), lr=1e-3, batch_items=8)


@dataclass(frozen=True, kw_only=True)
class StatesConfig:
    """What is moved, and where."""

    train: TrainConfig = field(default_factory=_training)
    """The trainer's settings; `loss` is one of kind `activations`. One step takes `batch_items` of either kind."""
    layers: tuple[int, ...] = (10, 20)
    """Decoder layers (0-based) after which streams are compared; each counts alike."""


def train_states(
    model: WhiteBox,
    moved: Sequence[Item],
    kept: Sequence[Item],
    config: StatesConfig,
    out: Path,
    *,
    on_step: OnStep | None = None,
) -> TrainResult:
    """Train an adapter that moves the streams of `moved` (prompts with one answer) and leaves those of `kept` alone.

    `kept` is gone through as often as it takes. Resumes and raises as `train` does.
    """
    require(model, Capability.GRADIENTS, for_="training on activations")
    settings, module = config.train, load(config.train.loss)
    together = processes(next(model.module.parameters()).device)
    check_settings(settings, held_out=False)
    _check(model, config, module.KIND)
    for items in (moved, kept):
        check_items(items, load("sft"))
    options = config_of(module, settings.loss_options)
    data = digest([list(moved), list(kept), config.layers])
    key = run_key(model, data, settings, None)
    if (done := finished(out, key)) is not None:
        return done
    began, batches, limit = time.monotonic(), batches_of(moved, settings), settings.row_tokens
    with seeded(settings.seed):
        trained = trainable_copy(model.module, settings.adapter, checkpointing=settings.gradient_checkpointing)
        check_packing(causal_lm(trained), moved[:2], model.module)
        trained.train()

        def backward(step: int) -> tuple[float, dict[str, float], int]:
            n = len(batches[step])
            beside = [kept[(step * settings.batch_items + i) % len(kept)] for i in range(n)]
            loss = partial(module.loss, config=options, progress=step / max(1, len(batches) - 1))
            sides = [moved[i] for i in batches[step]], beside
            rows = [(s, pack([side[i] for i in row])) for s, side in enumerate(sides) for row in rows_of(side, limit)]
            tokens = [sum(len(row.tokens) for s, row in rows if s == side) for side in (0, 1)]

            def one_row(r: int) -> Part:
                side, row = rows[r]
                output = (_moved, _kept)[side](loss, _both(trained, row, config.layers))
                share = len(row.tokens) / tokens[side]
                metrics = {name: value * share for name, value in output.metrics.items()}
                return Part(output.loss * share, metrics, len(row.tokens))

            return over_rows([len(row.tokens) for _, row in rows], one_row, together, f"{settings.seed}/{step}")

        spent = time.monotonic() - began
        done_ = descend(
            len(batches),
            trainable(trained),
            backward,
            settings,
            out,
            key,
            spent=spent,
            on_step=on_step,
            together=together,
        )
        path = together.told(lambda: save_trained(trained, out))
    return finish(out, path, key, data, model, settings, [*moved, *kept], done_, together=together)


def _moved(loss: Callable[..., LossOutput], states: Activations) -> LossOutput:
    """The term of moved tokens alone: a loss of kind `activations` is a mean over these plus a mean over kept ones, which is
    zero where nothing has changed."""
    return loss(states, _unchanged(states))


def _kept(loss: Callable[..., LossOutput], states: Activations) -> LossOutput:
    """The term of kept tokens alone: what is left beside some moved ones without a gradient."""
    still = Activations(states.trained.detach(), states.original, states.mask)
    both, one = loss(still, states), loss(still, _unchanged(states))
    return LossOutput(both.loss - one.loss, {name: both.metrics[name] - one.metrics[name] for name in both.metrics})


def _unchanged(states: Activations) -> Activations:
    return Activations(states.original, states.original, states.mask)


def _check(model: WhiteBox, config: StatesConfig, kind: str) -> None:
    if kind != "activations":
        raise UsageError(
            f"the {config.train.loss} loss does not learn from activations", expected="circuit_breaker, rmu"
        )
    if config.train.adapter is None:
        raise UsageError("the original is the model with its adapter off", expected="an adapter", got="adapter=None")
    wrong = [layer for layer in config.layers if not 0 <= layer < model.n_layers]
    if wrong or not config.layers:
        raise UsageError("no such decoder layer", expected=f"0 … {model.n_layers - 1}", got=list(config.layers))


def _both(trained: Any, row: Row, layers: Sequence[int]) -> Activations:
    """Streams [layers, T, D] of a row under the trained and the original model."""
    now = streams(causal_lm(trained), row, layers)
    with torch.no_grad(), adapter_off(trained):
        before = streams(causal_lm(trained), row, layers)
    mask = torch.ones(now.shape[:2], dtype=torch.bool, device=now.device)
    return Activations(now, before, mask)


def streams(module: Any, row: Row, layers: Sequence[int]) -> Tensor:
    """Residual stream after each of `layers` at every token of a packed row, float32 [layers, T, D], with gradients."""
    caught: dict[int, Tensor] = {}
    with _catching(module, layers, caught):
        answer_states(module, row)
    return torch.stack([caught[layer] for layer in layers])


@contextmanager
def _catching(module: Any, layers: Sequence[int], caught: dict[int, Tensor]) -> Iterator[None]:
    def hook(layer: int) -> Any:
        def catch(part: Any, args: Any, output: Any) -> None:
            caught[layer] = (output[0] if isinstance(output, tuple) else output)[0].float()

        return catch

    found = decoder_layers(module)
    handles = [found[layer].register_forward_hook(hook(layer)) for layer in dict.fromkeys(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
