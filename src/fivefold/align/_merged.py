"""A policy to draw samples from: the adapter merged into weights of its own, laid out for few rows.

Decoding multiplies every weight with a handful of rows. Two thin products a layer for the adapter then cost nearly as much
as the wide one, and a weight [O, I] that is read by columns is up to 1.5 times slower on a CPU than one that lies as [I, O].
A merged copy has neither cost: once a round every adapted weight becomes W + s B A, in memory that is taken once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fivefold.align._adapter import causal_lm, packed_copy, trainable
from fivefold.align._lora import is_plain


class Merged:
    """`module`: what `trained` (a peft model over the frozen `base`) computes, as of the last `update`, without an adapter.

    Takes as much memory as the adapted weights; all others are shared with `base`.
    """

    def __init__(self, trained: Any, base: Any) -> None:
        self.module = packed_copy(base).requires_grad_(False)
        self._layers: list[tuple[Any, torch.Tensor]] = []
        for name, layer in _adapted(trained):
            linear = self.module.get_submodule(name)
            merged = layer.get_base_layer().weight.detach().t().contiguous()
            linear.weight = nn.Parameter(merged.t(), requires_grad=False)
            self._layers.append((layer, merged))
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Take over the adapter as it is now."""
        for layer, merged in self._layers:
            name = layer.active_adapters[0]
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            torch.addmm(layer.get_base_layer().weight.t(), a.t(), b.t(), alpha=layer.scaling[name], out=merged)


def mergeable(trained: Any) -> bool:
    """Whether a policy on a CPU is plain LoRA in the weights' own dtype, and nothing else of it is trained."""
    layers = [layer for _, layer in _adapted(trained)]
    if not layers or not all(is_plain(layer) for layer in layers):
        return False
    factors = {
        id(p)
        for layer in layers
        for n in layer.active_adapters
        for p in (layer.lora_A[n].weight, layer.lora_B[n].weight)
    }
    same = all(
        layer.lora_A[layer.active_adapters[0]].weight.dtype == layer.get_base_layer().weight.dtype for layer in layers
    )
    on_cpu = all(layer.get_base_layer().weight.device.type == "cpu" for layer in layers)
    return same and on_cpu and {id(p) for p in trainable(trained).values()} <= factors


def _adapted(trained: Any) -> list[tuple[str, Any]]:
    """Every adapted layer with its place in the model."""
    from peft.tuners.lora import LoraLayer

    return [(name, layer) for name, layer in causal_lm(trained).named_modules() if isinstance(layer, LoraLayer)]
