"""RMS norms with one fused forward and backward: the same numbers in a third of the time on a CPU.

Written out in single operations, as models have it, a norm passes over its input some eight times forwards and more
backwards, each time through a new tensor, with no matrix product to hide that behind.
Source: Zhang & Sennrich 2019 (arXiv:1910.07467).
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from fivefold.runtime._lean import inverse_rms, is_plain_norm, norm_eps, scaled


class _FusedNorm(torch.autograd.Function):
    """y = w x / rms(x) for x [..., D] and w [D], where rms(x)² = mean(x²) + eps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return scaled(x, weight, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        (grad,) = grads
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * x).mul_(inverse).flatten(0, -2).sum(0)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        grad_x = grad * weight
        along = (grad_x * x).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(x.shape[-1])
        return grad_x.mul_(inverse).addcmul_(x, along, value=-1), grad_weight, None


def fuse_norms(module: nn.Module) -> int:
    """Give every RMS norm of a model the fused forward, where it gives what the norm's own gives; returns how many."""
    n = 0
    for norm in module.modules():
        eps = norm_eps(norm)
        if eps is not None and norm.weight.dtype == torch.float32 and is_plain_norm(norm, eps):
            norm.forward = partial(_forward, norm, eps, norm.forward)
            n += 1
    return n


def _forward(norm: Any, eps: float, plain: Any, x: Tensor) -> Tensor:
    if x.dtype != torch.float32 or norm.weight.dtype != torch.float32:
        return cast(Tensor, plain(x))
    return cast(Tensor, _FusedNorm.apply(x, norm.weight, eps))  # type: ignore[no-untyped-call]
