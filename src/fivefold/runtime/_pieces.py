"""Attention over trees in a packed row, by fused kernels without masks, with gradients.

A tree is cut where it branches. What a run of tokens between two branchings sees is then a list of pieces: itself in causal
order, and each earlier run on its way to the root whole. Nothing hidden is computed, and what many runs see (a prompt
behind its answers) they read together. Their partial softmaxes are merged by their log-sum-exp (Juravsky et al. 2024,
"Hydragen", section 3.2). The backward pass needs of the forward pass each row's output and log-sum-exp over all that it sees:
with these every piece has its own probabilities exp(S - lse) and its own part of the gradient, and the parts add up (Dao
et al. 2022, "FlashAttention", algorithm 4; Liu et al. 2023, "Ring Attention", adds them up over devices).

Shapes: T rows, H query heads, G key/value heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

NATIVE_GROUPS = tuple(int(x) for x in torch.__version__.split(".")[:2]) >= (2, 13)
"""Whether the fused kernel is known to take fewer key heads than query heads. Found so for 2.13; not tried on older ones."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Piece:
    """Rows `start:stop` see all of the rows `first:last`, or, where these are their own, themselves in causal order."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def own(self) -> bool:
        """Whether the rows see themselves."""
        return self.start == self.first

    @property
    def scores(self) -> int:
        """Scores a head that this takes."""
        return (self.stop - self.start) * (self.last - self.first)


@dataclass(frozen=True)
class Pieces:
    """All of a row: every row is in one piece of its own, and what else it sees is in others, which stand after all of these
    (they add to what those write). `reach` is the highest position of a token."""

    parts: tuple[Piece, ...]
    reach: int


def attend_in_pieces(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, scale: float) -> Tensor:
    """Queries [1, H, T, D], keys and values [1, G, T, D], on a CPU, to outputs [1, T, H, D], with gradients if enabled."""
    if not NATIVE_GROUPS and query.shape[1] != key.shape[1]:
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    return cast(Tensor, _InPieces.apply(query, key, value, pieces, scale))  # type: ignore[no-untyped-call]


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, scale: float) -> Tensor:
        _, heads, rows, width = query.shape
        out = query.new_empty(1, rows, heads, width)
        lse = torch.empty(1, rows, heads, dtype=torch.promote_types(query.dtype, torch.float32))
        for piece in pieces.parts:
            at, seen = slice(piece.start, piece.stop), slice(piece.first, piece.last)
            part, weight = _forward(query[:, :, at], key[:, :, seen], value[:, :, seen], 0.0, piece.own, scale=scale)
            part, weight = part.transpose(1, 2), weight.transpose(1, 2)
            if piece.own:
                out[:, at], lse[:, at] = part, weight
            else:
                merge(out[:, at], lse[:, at], part, weight)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.pieces, ctx.scale = pieces, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        *given, out, lse = ctx.saved_tensors
        # torch's backward pass in half precision takes three to four times as long as in float32
        query, key, value = (x.to(lse.dtype) for x in given)
        grad, out, lse = (x.to(lse.dtype).transpose(1, 2) for x in (grads[0], out, lse))
        found = [torch.empty_like(x) for x in (query, key, value)]
        for piece in ctx.pieces.parts:
            at, seen = slice(piece.start, piece.stop), slice(piece.first, piece.last)
            parts = _backward(
                *(x[:, :, at] for x in (grad, query)),
                *(x[:, :, seen] for x in (key, value)),
                *(x[:, :, at] for x in (out, lse)),
                0.0,
                piece.own,
                scale=ctx.scale,
            )
            for whole, part, where in zip(found, parts, (at, seen, seen), strict=True):
                if piece.own:
                    whole[:, :, where] = part
                else:
                    whole[:, :, where] += part
        query, key, value = (x.to(known.dtype) for x, known in zip(found, given, strict=True))
        return query, key, value, None, None


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Join two attentions over disjoint keys, in place: outputs [..., D] weighted by their log-sum-exp [...]."""
    weight = torch.sigmoid(more_lse - lse).unsqueeze(-1).to(out.dtype)
    out.lerp_(more, weight)
    torch.logaddexp(lse, more_lse, out=lse)
