"""LoRA on a causal LM: where it sits is found by structure, and it is taken off again without a trace."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fivefold.align import _ranges
from fivefold.align._lora import fuse
from fivefold.align._norm import fuse_norms
from fivefold.align._recompute import recompute
from fivefold.errors import TrainingError, UsageError
from fivefold.runtime import _attention
from fivefold.runtime._hush import hush_deepspeed, without_progress
from fivefold.runtime._stand_in import copied
from fivefold.runtime._structure import decoder_layers, share


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters W + (alpha / r) B A (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = 16
    """Rank."""
    alpha: int = 32
    """Scale; the update is multiplied by alpha / r."""
    dropout: float = 0.0
    """Dropout on the adapter's input."""
    targets: Literal["all", "attention", "mlp"] = "all"
    """Which linear maps of a decoder layer get an adapter."""
    from_layer: int = 0
    """First decoder layer (0-based) with an adapter. The backward pass stops there, so higher is cheaper."""
    dora: bool = False
    """Weight-decomposed adapters (Liu et al. 2024, arXiv:2402.09353)."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "r")
        _ranges.counts(self, "from_layer", least=0)
        _ranges.numbers(self, "alpha", above=True, below=True)
        _ranges.numbers(self, "dropout", most=1.0, below=True)
        _ranges.words(self, "targets")


def target_names(layer: nn.Module, targets: str) -> list[str]:
    """Names of the linear maps inside one decoder layer, by whether an attention module holds them."""
    found = []
    for name, part in layer.named_modules():
        if isinstance(part, nn.Linear):
            parents = name.split(".")[:-1]
            holders = [layer.get_submodule(".".join(parents[: i + 1])) for i in range(len(parents))]
            kind = "attention" if any("attention" in type(h).__name__.lower() for h in holders) else "mlp"
            if targets in ("all", kind):
                found.append(name.rsplit(".", 1)[-1])
    if not found:
        raise UsageError(f"no linear map of kind {targets!r} in {type(layer).__name__}")
    return sorted(set(found))


def packed_copy(module: Any) -> Any:
    """A module over the same weights that attends through the runtime's packed attention."""
    copied: Any = share(module)
    copied.set_attn_implementation(_attention.NAME)
    return copied


def aside(module: Any) -> Any:
    """A module over the same numbers with parameters and buffers of its own: what is moved, split or asked for gradients
    there is not in `module`. Nothing may be written into them in place."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in module.parameters()}
    memo |= {id(b): b.detach() for b in module.buffers()}
    return copied(module, memo)


def trainable_copy(
    module: Any, lora: Lora | None, start: Path | None = None, *, checkpointing: bool = False, split: bool = False
) -> Any:
    """A model to train that leaves `module` alone: with a fresh adapter, one loaded from `start`, or none at all.

    With an adapter the copy shares the base weights, which stay frozen; without one (full fine-tune) it has weights of
    its own. The copy attends through the runtime's packed attention. With `checkpointing` its decoder layers are
    computed again in the backward pass (`_recompute`). `split` says that its weights are split over processes next: that
    copies them, so the copy is not made whole before.
    """
    if any(hasattr(m, "lora_A") for m in module.modules()):
        raise TrainingError(
            "the model already carries an adapter", next_step="train the base, with the adapter's folder as `start`"
        )
    full = lora is None and start is None
    if full and next(module.parameters()).dtype == torch.float16:
        raise UsageError(
            "all weights cannot be trained in float16: small gradients are zero in it, and losses are not scaled here",
            next_step="load the model in bfloat16 or float32",
        )
    if split:
        module = aside(module)
    elif full:
        module = copied(module)
    if full:
        trained = packed_copy(module).requires_grad_(True).eval()
    else:
        with _quiet():
            trained = _attach(packed_copy(module).requires_grad_(False), lora, start).eval()
        fuse(trained)
    fuse_norms(trained)
    if checkpointing:
        recompute(causal_lm(trained))
    return trained


def _attach(module: Any, lora: Lora | None, start: Path | None) -> Any:
    hush_deepspeed()  # peft asks for it, too
    from peft import LoraConfig, PeftModel, get_peft_model

    if start is not None:
        return PeftModel.from_pretrained(module, str(start), is_trainable=True)
    assert lora is not None
    layers = decoder_layers(module)
    if not 0 <= lora.from_layer < len(layers):
        raise UsageError(
            "no such first layer for the adapter", expected=f"0 to {len(layers) - 1}", got=str(lora.from_layer)
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=target_names(layers[0], lora.targets),
        layers_to_transform=list(range(lora.from_layer, len(layers))) if lora.from_layer else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(module, config)


@contextmanager
def _quiet() -> Iterator[None]:
    """peft asks transformers for a property by its old name; the warning tells a user nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def adapter_parameters(module: nn.Module, lora: Lora) -> int:
    """How many numbers an adapter on `module` has, without making it."""
    layers = decoder_layers(module)
    names = set(target_names(layers[0], lora.targets))
    linear = [
        part
        for layer in list(layers)[lora.from_layer :]
        for name, part in layer.named_modules()
        if isinstance(part, nn.Linear) and name.rsplit(".", 1)[-1] in names
    ]
    return sum(lora.r * (part.in_features + part.out_features) for part in linear)


@contextmanager
def adapter_off(trained: Any) -> Iterator[None]:
    """The base model's answers while inside; for a full fine-tune there is nothing to switch off."""
    if hasattr(trained, "disable_adapter"):
        with trained.disable_adapter():
            yield
    else:
        yield


def causal_lm(trained: Any) -> Any:
    """The causal LM inside a peft model, or the model itself."""
    return trained.get_base_model() if hasattr(trained, "get_base_model") else trained


def trainable(module: nn.Module) -> dict[str, torch.nn.Parameter]:
    """Parameters that training changes, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _in_order(path: Path) -> None:
    """Sort the module names that peft keeps in sets: their order changes from process to process, a digest must not."""
    config = json.loads(path.read_text())
    for name, value in config.items():
        if isinstance(value, list) and all(isinstance(x, str) for x in value):
            config[name] = sorted(value)
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def save_trained(trained: Any, out: Path, weights: Mapping[str, Tensor] | None = None, tokenizer: Any = None) -> Path:
    """Write the adapter to `out/adapter` (or a full model to `out/model`), whole or not at all.

    `weights` by name stand in for the model's own where these are split over processes. A full model gets its `tokenizer`
    beside it, without which it could not be opened.
    """
    is_adapter = hasattr(trained, "peft_config")
    final = out / ("adapter" if is_adapter else "model")
    beside = out / f".{final.name}.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    # "auto" would ask the hub whether the vocabulary has changed
    settings: dict[str, Any] = {"save_embedding_layers": False} if is_adapter else {}
    hush_deepspeed()
    with without_progress():
        trained.save_pretrained(str(beside), state_dict=None if weights is None else dict(weights), **settings)
    (beside / "README.md").unlink(missing_ok=True)
    if is_adapter:
        _in_order(beside / "adapter_config.json")
    elif tokenizer is not None:
        tokenizer.save_pretrained(str(beside))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(beside, final)
    return final
