"""A policy to draw samples from: the adapter merged into weights of its own, laid out for few rows.

Decoding multiplies every weight with a handful of rows. Two thin products a layer for the adapter then cost nearly as much
as the wide one, and a weight [O, I] that is read by columns is up to 1.5 times slower on a CPU than one that lies as [I, O].
A merged copy has neither cost: once a round every adapted weight becomes W + s B A, in memory that is taken once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fivefold.align._adapter import causal_lm, packed_copy, trainable
from fivefold.align._lora import is_plain


@dataclass(frozen=True)
class Merged:
    """`module` computes what a policy did at the last `update`, without an adapter. `layers`: each adapted layer of the policy
    with the weight [I, O] that stands for it, memory beside the policy's; all else is shared with its base."""

    module: Any
    layers: Sequence[tuple[Any, Tensor]]

    @torch.no_grad()
    def update(self) -> None:
        """Take over the adapter as it is now."""
        for layer, weight in self.layers:
            base, a, b = factors(layer)
            scale = layer.scaling[layer.active_adapters[0]]
            torch.addmm(base.t(), a.t(), b.t(), alpha=scale, out=weight)


def merged(trained: Any, base: Any) -> Merged | None:
    """A merged copy of `trained`, a peft model over `base`; None unless all that is trained is plain LoRA on a CPU, in the
    dtype of its weights."""
    adapted = adapted_layers(trained)
    if adapted is None or not all(_fits(layer) for _, layer in adapted):
        return None
    module, layers = packed_copy(base), []
    for name, layer in adapted:
        weight = torch.empty_like(factors(layer)[0].t(), memory_format=torch.contiguous_format)
        module.get_submodule(name).weight = nn.Parameter(weight.t(), requires_grad=False)
        layers.append((layer, weight))
    made = Merged(module, layers)
    made.update()
    return made


def adapted_layers(trained: Any) -> list[tuple[str, Any]] | None:
    """The adapted layers of a peft model by name; None unless all that is trained is plain LoRA."""
    from peft.tuners.lora import LoraLayer

    adapted = [(n, m) for n, m in causal_lm(trained).named_modules() if isinstance(m, LoraLayer)]
    if not adapted or not all(is_plain(layer) for _, layer in adapted):
        return None
    known = {id(p) for _, layer in adapted for p in factors(layer)}
    return adapted if {id(p) for p in trainable(trained).values()} <= known else None


def factors(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """W [O, I], A [r, I] and B [O, r] of a plain layer."""
    name = layer.active_adapters[0]
    return layer.get_base_layer().weight, layer.lora_A[name].weight, layer.lora_B[name].weight


def _fits(layer: Any) -> bool:
    base, a, _ = factors(layer)
    return base.dtype == a.dtype and base.device.type == "cpu"
