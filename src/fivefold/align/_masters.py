"""Weights in half precision, trained through copies in float32: mixed-precision training's master weights.

bfloat16 keeps eight bits of a number, so a step smaller than about a 512th of a weight rounds to nothing, however many
such steps are taken. So each trained weight in half precision has a master copy in float32. What the model computes is in
half precision; a row's gradient is moved to the master as soon as it is whole and added up there; clipping, the optimiser,
averages and checkpoints see the masters alone; after a step they are rounded into the model's weights. A weight takes 18
bytes so (2 its own; 4 each its master, gradient and two moments), where training in float32 takes 16.

Source: Micikevicius et al. 2017 (arXiv:1710.03740), section 3.1. Losses are not scaled (section 3.2): bfloat16 has the range
of float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Masters:
    """What an optimiser steps on, and what the model computes with."""

    params: Mapping[str, Tensor]
    """By name: the float32 copy of a weight in half precision, any other trained parameter itself."""
    weights: Mapping[str, nn.Parameter]
    """The weights in half precision, by the names of their masters."""

    @classmethod
    def of(cls, trained: Mapping[str, nn.Parameter]) -> Masters:
        """Masters of the trained parameters of a model, where these lie (split, where they are split)."""
        weights = {name: p for name, p in trained.items() if p.dtype in HALF}
        return cls({name: _copy_of(p) if name in weights else p for name, p in trained.items()}, weights)

    @torch.no_grad()
    def round(self) -> None:
        """Round the masters into the model's weights, to the nearest."""
        for name, weight in self.weights.items():
            weight.copy_(self.params[name])

    @torch.no_grad()
    def put(self, values: Mapping[str, Tensor]) -> None:
        """Set all trained parameters to `values`, and the model's weights with them."""
        for name, p in self.params.items():
            p.copy_(values[name])
        self.round()

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Inside, each backward pass leaves its gradients in the masters."""
        handles = [
            weight.register_post_accumulate_grad_hook(partial(_move, self.params[name]))  # type: ignore[no-untyped-call]
            for name, weight in self.weights.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _copy_of(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(weight.detach().float())


def _move(master: Tensor, weight: Tensor) -> None:
    """Add a weight's gradient to its master's, and let go of it."""
    assert weight.grad is not None
    master.grad = weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)
    weight.grad = None
