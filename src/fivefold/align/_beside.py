"""A policy in bfloat16 to draw samples from: the adapter beside weights of its own, both laid out for few rows.

Rounded to bfloat16, W + s B A loses most of a small adapter, so the two are not merged (`_merged`). As peft has it, an adapted
layer is then three products, of which the two thin ones cost, with the few rows of a decoding step, as much as the wide one.
Here layers that multiply the same input (q, k, v; gate, up) are one: their W lie one below the other, laid out once
(`runtime._prepacked`), and so do their A; their s B stand in the blocks of a diagonal. Three products for up to nine, and
the last of them adds into what the first gave before it is rounded.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fivefold.align._adapter import packed_copy
from fivefold.align._merged import adapted_layers, factors
from fivefold.runtime._prepacked import added, can_lay_out, laid_out, product

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that multiply the same input, by the names that transformers gives them."""

ROWS = (1, 16, 150)
"""Rows for which a layer is compared with peft's before it stands for it."""

NEAR = 0.02
"""Largest difference from peft's output, as a share of its largest number: four roundings to bfloat16 or so."""


@dataclass(frozen=True)
class Beside:
    """`module` computes what a policy did at the last `update`. Each of `groups` holds adapted layers of the policy, in
    memory beside the policy's; all else is shared with its base."""

    module: Any
    groups: Sequence[_Group]

    @torch.no_grad()
    def update(self) -> None:
        """Take over the adapter as it is now."""
        for group in self.groups:
            group.update()


def beside(trained: Any, base: Any) -> Beside | None:
    """Such a copy of `trained`, a peft model over `base`; None unless all that is trained is plain LoRA over bfloat16 on a
    CPU that multiplies it, or where a trial shows that the result differs."""
    adapted = adapted_layers(trained)
    if adapted is None or not all(_fits(layer) for _, layer in adapted):
        return None
    module, groups, layers = packed_copy(base), [], dict(adapted)
    for names in _grouped(list(layers)):
        group = _Group([layers[name] for name in names])
        if not group.agrees():
            return None
        groups.append(group)
        for which, name in enumerate(names):
            module.get_submodule(name).forward = partial(group.part, which)
    return Beside(module, groups)


def _fits(layer: Any) -> bool:
    weight = factors(layer)[0]
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and can_lay_out(weight.dtype)


def _grouped(names: Sequence[str]) -> list[list[str]]:
    """Names of layers, those that multiply the same input together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        kind = next((siblings for siblings in SIBLINGS if last in siblings), (last,))
        groups.setdefault((parent, *kind), []).append(name)
    return list(groups.values())


class _Group:
    """Adapted layers that multiply the same input, as one: W x + (s B) (A x), W [ΣO, I], A [Σr, I], s B [ΣO, Σr]."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        weights = [factors(layer)[0].detach() for layer in layers]
        self.sizes = [len(weight) for weight in weights]
        self.wide = laid_out(torch.cat(weights))
        self.known = threading.local()
        with torch.no_grad():
            self.update()

    def update(self) -> None:
        """Lay the factors out as they are now."""
        found = [(*factors(layer)[1:], layer.scaling[layer.active_adapters[0]]) for layer in self.layers]
        self.low = laid_out(torch.cat([a for a, _, _ in found]).bfloat16())
        scaled = torch.block_diag(*[scale * b for _, b, scale in found])  # type: ignore[no-untyped-call]
        self.high = laid_out(scaled.bfloat16())

    def part(self, which: int, x: Tensor) -> Tensor:
        """The output of layer `which` for x [..., I]. All are computed when the first is asked, and kept on this thread
        until the last has been asked for the same x."""
        known: tuple[Tensor, int, Sequence[Tensor]] | None = vars(self.known).pop("parts", None)
        if known is None or known[0] is not x or known[1] != x._version:
            known = x, x._version, torch.split(self.product(x), self.sizes, dim=-1)
        if which + 1 < len(self.layers):
            self.known.parts = known
        return known[2][which]

    def product(self, x: Tensor) -> Tensor:
        """The outputs of all layers, one behind the other: [..., ΣO]."""
        flat = x.reshape(-1, x.shape[-1])
        y = added(product(flat, self.low), self.high, product(flat, self.wide))
        return y.view(*x.shape[:-1], y.shape[-1])

    @torch.no_grad()
    def agrees(self) -> bool:
        """Whether the layers give what peft's own do, seen on numbers."""
        draws = torch.Generator().manual_seed(0)
        for rows in ROWS:
            x = torch.randn(rows, factors(self.layers[0])[0].shape[1], generator=draws).bfloat16()
            theirs = torch.cat([layer(x) for layer in self.layers], dim=-1)
            if (self.product(x) - theirs).abs().max() > NEAR * theirs.abs().max():
                return False
        return True
