"""RMS norms and gated MLPs with fewer passes over memory, where nobody takes a gradient.

Written in single operations, as models have it, a norm makes eight new tensors and a gated MLP multiplies into one more.
Between matrix products that take seconds this is a few per cent; the numbers are the same but for the order of sums.
Source of the norm: Zhang & Sennrich 2019 (arXiv:1910.07467); of the gated MLP: Shazeer 2020 (arXiv:2002.05202).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from fivefold.runtime._stand_in import standing_in

DTYPES = (torch.float32, torch.bfloat16)
"""In which the lean forwards were compared with the modules' own."""

GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
"""The parts of a gated MLP by the names that transformers gives them."""

MAKING_NEW = ("SiLU", "SiLUActivation")
"""Activations whose result is a tensor of its own, which may be multiplied in place."""


@dataclass(frozen=True)
class Lean:
    """A module and the forward that stands for its own."""

    module: nn.Module
    forward: Callable[[Tensor], Tensor]


def find(module: nn.Module) -> list[Lean]:
    """The norms and MLPs of a model for which the lean forward gives what their own gives, seen on numbers: every norm, and
    one MLP of each class. What has a forward of its own, put there by others, is left out."""
    found = []
    gated: dict[type, bool] = {}
    for part in module.modules():
        eps = norm_eps(part)
        if "forward" in vars(part):
            continue
        if eps is not None and is_plain_norm(part, eps):
            found.append(Lean(part, partial(_norm, part, eps)))
        elif _looks_gated(part):
            kind = type(part)
            gated[kind] = gated[kind] if kind in gated else _is_gated(part)
            if gated[kind]:
                found.append(Lean(part, partial(_gated, part)))
    return found


def lean(parts: Sequence[Lean]) -> AbstractContextManager[None]:
    """Within the block these modules compute the lean way; what has a forward of its own already keeps it."""
    return standing_in([(part.module, part.forward) for part in parts])


def norm_eps(norm: nn.Module) -> float | None:
    """The epsilon of what calls itself an RMS norm and has nothing but a weight of one dimension; else None."""
    if not type(norm).__name__.endswith("RMSNorm"):
        return None
    named = dict(norm.named_parameters())
    if list(named) != ["weight"] or named["weight"].dim() != 1:
        return None
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return eps if isinstance(eps, float) else None


def is_plain_norm(norm: Any, eps: float) -> bool:
    """Whether the norm computes w x / rms(x), the division in float32, seen on numbers: some models multiply by 1 + w."""
    weight: Tensor = norm.weight
    if weight.dtype not in DTYPES or weight.is_meta:
        return False
    with torch.no_grad():
        x = torch.linspace(-2.0, 3.0, 2 * len(weight), device=weight.device).view(1, 2, -1).to(weight.dtype)
        apart = 1e-4 if weight.dtype == torch.float32 else 1e-2
        return torch.allclose(type(norm).forward(norm, x), normed(x, weight, eps), rtol=apart, atol=apart / 10)


def normed(x: Tensor, weight: Tensor, eps: float, inverse: Tensor | None = None) -> Tensor:
    """w x / rms(x) in x's dtype, the division in float32; `inverse` is 1 / rms(x) where that is known."""
    wide = x.float()
    inverse = inverse_rms(wide, eps) if inverse is None else inverse
    y: Tensor = (x * inverse) if wide is x else wide.mul_(inverse).to(x.dtype)
    return y.mul_(weight)


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / rms(x) [..., 1] of x [..., D], where rms(x)² = mean(x²) + eps."""
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    inverse: Tensor = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
    return inverse


def _norm(norm: Any, eps: float, x: Tensor) -> Tensor:
    if x.dtype != norm.weight.dtype or torch.is_grad_enabled():
        return cast(Tensor, type(norm).forward(norm, x))
    return normed(x, norm.weight, eps)


def _looks_gated(mlp: Any) -> bool:
    """Whether a module has a gated MLP's parts, in float32 or bfloat16, and an activation that may be multiplied in place."""
    if {name for name, _ in mlp.named_children()} != GATED or type(mlp.act_fn).__name__ not in MAKING_NEW:
        return False
    weight = getattr(mlp.gate_proj, "weight", None)
    return isinstance(weight, Tensor) and weight.dtype in DTYPES and not weight.is_meta


def _is_gated(mlp: Any) -> bool:
    """Whether it computes down(act(gate x) · up x) and nothing else, seen on numbers."""
    weight: Tensor = mlp.gate_proj.weight
    with torch.no_grad():
        x = torch.linspace(-2.0, 3.0, 2 * weight.shape[-1], device=weight.device).view(1, 2, -1).to(weight.dtype)
        return torch.allclose(type(mlp).forward(mlp, x), _gated(mlp, x), rtol=1e-4, atol=1e-5)


def _gated(mlp: Any, x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or mlp.act_fn._forward_hooks:
        return cast(Tensor, type(mlp).forward(mlp, x))
    return cast(Tensor, mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)).mul_(mlp.up_proj(x))))
