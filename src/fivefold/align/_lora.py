"""LoRA layers of peft with one fused forward and backward: the same numbers in about two thirds of the time on a CPU.

peft computes W x, then s·B(A x), then their sum: five passes over tensors as large as the layer's output, and as many
again in the backward pass. Here the low-rank product is accumulated into the output by the matrix product itself. Over
weights in half precision the factors, which peft keeps in float32, are rounded to it for the products, as autocast does.
Layers with dropout, DoRA, several adapters or a bias keep peft's own forward.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16,)
"""Dtypes of weights to which factors in float32 are rounded for the products."""


class _FusedLora(torch.autograd.Function):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ for x [T, I], frozen W [O, I], A [r, I], B [O, r]; products in the dtype of x and W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.kinds = a.dtype, b.dtype
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        return torch.mm(x, weight.T).addmm_(low, b.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        x, weight, a, b, low = ctx.saved_tensors
        (grad,) = grads
        grad_low = (grad @ b).mul_(ctx.scale)
        # the narrow side first: a product with r rows is several times faster than one with r columns
        grad_b = torch.mm(low.T, grad).T.to(ctx.kinds[1]).mul(ctx.scale)
        grad_a = torch.mm(grad_low.T, x).to(ctx.kinds[0])
        grad_x = torch.mm(grad, weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad_a, grad_b, None


def fuse(trained: nn.Module) -> int:
    """Give every plain LoRA layer of a peft model the fused forward; returns how many there are."""
    from peft.tuners.lora import Linear

    n = 0
    for layer in trained.modules():
        if isinstance(layer, Linear) and is_plain(layer):
            layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
            n += 1
    return n


def is_plain(layer: Any) -> bool:
    """Whether a peft layer computes W x + s B A x and nothing else."""
    base = layer.get_base_layer()
    names = layer.active_adapters
    return (
        isinstance(base, nn.Linear)
        and base.bias is None
        and len(names) == 1
        and names[0] in layer.lora_A
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
        and names[0] not in layer.lora_variant
        and layer.lora_A[names[0]].bias is None
        and layer.lora_B[names[0]].bias is None
    )


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = layer.get_base_layer()
    if layer.disable_adapters or layer.merged:
        return cast(Tensor, base(x))
    name = layer.active_adapters[0]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    if base.weight.dtype != x.dtype or (a.dtype != x.dtype and x.dtype not in HALF):
        return cast(Tensor, type(layer).forward(layer, x, *args, **kwargs))
    flat, scale = x.reshape(-1, x.shape[-1]), layer.scaling[name]
    if torch.is_grad_enabled():
        y = _FusedLora.apply(flat, base.weight, a, b, scale)  # type: ignore[no-untyped-call]
    else:  # the base as a module, whose weight may be prepacked
        a, b = _rounded(layer, a, b, x.dtype)
        y = base(flat).addmm_(flat @ a.T, b.T, alpha=scale)
    return cast(Tensor, y.view(*x.shape[:-1], y.shape[-1]))


def _rounded(layer: Any, a: Tensor, b: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The factors in `dtype`, rounded once as long as nobody writes into them: a decoding step has little else to do."""
    if a.dtype == dtype:
        return a, b
    state = (a, a._version, b, b._version, dtype)
    known = vars(layer).get("_factors")
    if known is None or not all(
        x is y or (isinstance(x, int) and x == y) for x, y in zip(known[0], state, strict=True)
    ):
        known = layer._factors = (state, (a.detach().to(dtype), b.detach().to(dtype)))
    return cast(tuple[Tensor, Tensor], known[1])
