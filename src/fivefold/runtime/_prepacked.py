"""Weights of linear layers laid out beforehand for products with few rows.

A decoding step multiplies every weight with one row a running request. A library of matrix products copies a weight into
blocks of its own order for each product (MKL for float32, oneDNN for bfloat16), and with few rows that copy costs as much as
the product itself. Here the blocks are made once and kept as long as the weight lives. What that gains is measured by
`make bench NAME=prepacked` (docs/decisions/prepacked-weights.md).

The blocks take as much memory as the weights, so they are made only where there is plenty. A weight that was changed, by
an optimizer or behind autograd's back as peft merges adapters, is found by its sum of bits and stays as it lies from then
on: laid out anew in every round of a training, blocks take several times their memory (MKL asks for more than it writes, and
what others wrote there before stays resident: 1.6 GiB after six rounds with 135M parameters).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from fivefold.runtime._stand_in import standing_in
from fivefold.runtime.crew import side_by_side, workers_of
from fivefold.runtime.memory import free_bytes

LOG = logging.getLogger(__name__)

FEW = 256
"""Rows for which weights are laid out, and most rows for which MKL's blocks are used; with more, laying out is cheap beside
the product. oneDNN's serve any number."""

SHARE = 0.25
"""Part of the free memory that the blocks of a model may take."""

LEAST = 1 << 16
"""Elements of the smallest weight that is worth it."""

ROWS = (1, 3, 8, 17, 64, FEW)
"""Rows for which the blocks' product is compared with the plain one before it is used."""

_CPU = torch.device("cpu")
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class _Blocks:
    """A weight in MKL's order, and the sum of bits that it had then."""

    packed: Tensor
    bits: int


_CHANGED = _Blocks(torch.empty(0), 0)
"""Stands for the blocks of a weight that has changed once."""

_kept: Any = WeakTensorKeyDictionary()


@contextmanager
def prepacked(module: nn.Module) -> Iterator[int]:
    """Within the block, linear layers of `module` multiply few rows by prepacked weights; gives how many layers do.

    None where the weights are not float32 on a CPU with MKL or bfloat16 on one that multiplies it, where memory is short, or
    where a trial shows that the result differs. Layers whose forward was replaced, or that are no plain
    `nn.Linear`, stay as they are.
    """
    layers = _layers(module)
    try:
        made = _blocks([layer.weight for layer in layers])
    except RuntimeError as error:  # no memory for them
        LOG.info("weights are not prepacked: %s", error)
        made = [_CHANGED] * len(layers)
    ready = [(layer, blocks.packed) for layer, blocks in zip(layers, made, strict=True) if blocks is not _CHANGED]
    with standing_in([(layer, partial(_forward, layer, packed)) for layer, packed in ready]):
        yield len(ready)


def _layers(module: nn.Module) -> list[nn.Linear]:
    """The layers whose weights can be laid out, none where memory is short."""
    linear = [m for m in module.modules() if type(m) is nn.Linear and "forward" not in vars(m) and _fits(m.weight)]
    shapes = {(m.weight.shape[0], m.weight.shape[1], m.weight.dtype) for m in linear}
    if not linear or not all(_agrees(*shape) for shape in shapes):
        return []
    missing = {id(m.weight): m.weight.nbytes for m in linear if m.weight not in _kept}
    free = free_bytes(_CPU)
    return linear if free is not None and sum(missing.values()) <= SHARE * free else []


def _fits(weight: Tensor) -> bool:
    """Whether a weight is worth laying out; one that lies as [in, out] is read the right way already."""
    plain = type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu" and weight.dtype in _DTYPES
    return plain and weight.is_contiguous() and weight.numel() >= LEAST and weight.nbytes % 8 == 0


@cache
def _agrees(out: int, inner: int, dtype: torch.dtype) -> bool:
    """Whether a weight of this shape, laid out once, gives right products for any number of rows that it is used for.

    MKL promises it for the number that the weight was laid out for; that its order does not depend on it is seen here.
    """
    if not can_lay_out(dtype):
        return False
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(min(out, 2048), inner, generator=draws).to(dtype)
    packed = laid_out(weight)
    apart = 1e-4 if dtype == torch.float32 else 1e-2
    for rows in ROWS if dtype == torch.float32 else (*ROWS, 4 * FEW):
        x = torch.randn(rows, inner, generator=draws).to(dtype)
        if not torch.allclose(_product(x, packed, weight, None), F.linear(x, weight), rtol=apart, atol=10 * apart):
            return False
    return True


def can_lay_out(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor can."""
    if dtype == torch.float32:
        return torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")  # type: ignore[no-untyped-call]
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")  # type: ignore[no-untyped-call]
    return known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _blocks(weights: list[Tensor]) -> list[_Blocks]:
    """What is kept for each weight, made where it is missing; `_CHANGED` where the weight is no longer what was laid out."""

    def made(weight: Tensor) -> _Blocks:
        known = cast(_Blocks | None, _kept.get(weight))
        if known is _CHANGED:
            return known
        bits = _bits(weight)
        if known is None:
            return _Blocks(laid_out(weight.detach()), bits)
        return known if known.bits == bits else _CHANGED

    found = side_by_side([partial(made, weight) for weight in weights], workers_of(_CPU))
    for weight, blocks in zip(weights, found, strict=True):
        _kept[weight] = blocks
    return found


def _bits(weight: Tensor) -> int:
    """The sum of a weight's bits, read as 64-bit numbers: differs when any element has changed."""
    return int(weight.detach().view(-1).view(torch.int64).sum())


def laid_out(weight: Tensor) -> Tensor:
    """A weight [O, I] in the library's order, for `product` and `added`."""
    if weight.dtype == torch.float32:
        return cast(Tensor, torch.ops.mkl._mkl_reorder_linear_weight(weight, FEW))
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight, FEW))


def product(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias, [..., O], of x [..., I] in bfloat16 and a weight that is laid out."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))


def added(x: Tensor, packed: Tensor, other: Tensor) -> Tensor:
    """x Wᵀ + other [T, O] in bfloat16, rounded once; `other` may be written into."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, None, "add"))


def _product(x: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.dtype == torch.float32:
        return cast(Tensor, torch.ops.mkl._mkl_linear(x, packed, weight, bias, x.numel() // x.shape[-1]))
    return product(x, packed, bias)


def _forward(layer: nn.Linear, packed: Tensor, x: Tensor) -> Tensor:
    few = 0 < x.numel() <= FEW * x.shape[-1] or (x.numel() > 0 and x.dtype == torch.bfloat16)
    if few and x.dtype == layer.weight.dtype and not torch.is_grad_enabled():
        return _product(x, packed, layer.weight, layer.bias)
    return F.linear(x, layer.weight, layer.bias)
