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

from fivefold.runtime._lean import DTYPES, inverse_rms, is_plain_norm, norm_eps, normed


class _FusedNorm(torch.autograd.Function):
    """y = w x / rms(x) for x [..., D] and w [D], where rms(x)² = mean(x²) + eps, the division in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = inverse_rms(wide, eps)
        ctx.save_for_backward(x, weight, inverse)
        return normed(x, weight, eps, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide, grad = x.float(), grads[0].float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * wide).mul_(inverse).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        grad_x = grad * weight
        along = (grad_x * wide).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(x.shape[-1])
        return grad_x.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype), grad_weight, None


def fuse_norms(module: nn.Module) -> int:
    """Give every RMS norm of a model the fused forward, where it gives what the norm's own gives; returns how many."""
    n = 0
    for norm in module.modules():
        eps = norm_eps(norm)
        if eps is not None and is_plain_norm(norm, eps):
            norm.forward = partial(_forward, norm, eps, norm.forward)
            n += 1
    return n


def _forward(norm: Any, eps: float, plain: Any, x: Tensor) -> Tensor:
    if x.dtype != norm.weight.dtype or x.dtype not in DTYPES:
        return cast(Tensor, plain(x))
    if not torch.is_grad_enabled():
        return normed(x, norm.weight, eps)
    return cast(Tensor, _FusedNorm.apply(x, norm.weight, eps))  # type: ignore[no-untyped-call]
