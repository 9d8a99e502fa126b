"""Attention over a packed row in which many sequences, and what they share, are computed at once.

A row holds the new tokens of all sequences one after another, without padding: `[1, T]`. Projections, norms and MLPs of
the ordinary Hugging Face module work on single tokens and do not notice. Only attention must know who sees whom, and
Hugging Face lets it be registered: the function here reads a `Plan` that the caller holds open on this thread. Without
a plan it is plain `sdpa`, so a module that carries it behaves as always for everybody else.

A plan has two kinds of rows. A `Block` is a run of rows that sees a stored `Prefix` (keys and values computed earlier)
and itself under a mask: a prompt, or a tree of questions and their options. `Decode` are single rows, one a slot of a
`Slots` cache, and a prefix shared by several slots is read once for all of them; the two partial softmaxes are merged
by their log-sum-exp (Juravsky et al. 2024, "Hydragen", section 3.2).

Shapes: T rows, H query heads, G key/value heads, R = H / G, D head width, P prefix tokens, S slots, L slot tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "fivefold"
_open = threading.local()


@dataclass(eq=False)
class Prefix:
    """Keys and values of the first `length` tokens of some sequences: one pair of [1, G, P, D] a layer."""

    length: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Block:
    """Rows `start:stop` of the row, which see all of `prefix` and, among themselves, what `within` allows.

    `within` is boolean [t, t] (row sees column), or None for plain causal order. `positions` are the tokens' positions
    in their own sequences. `store` receives the keys and values of prefix and rows together; `slot` is the slot of the
    decode cache that takes them from position `slot_from` on.
    """

    start: int
    stop: int
    prefix: Prefix | None = None
    within: Tensor | None = None
    positions: Tensor | None = None
    store: Prefix | None = None
    slot: int | None = None
    slot_from: int = 0
    _bias: dict[tuple[int | None, torch.dtype], Tensor | None] = field(default_factory=dict)


@dataclass(eq=False)
class Slots:
    """Keys and values of the sequences being decoded, from where their shared prefix ends: [S, G, L, D] a layer.

    `lengths` [S] are the filled positions, `offsets` [S] the length of the prefix before them. Slots in use are the
    first `n`. `groups` lists (prefix, its slots).
    """

    capacity: int
    lengths: Tensor
    offsets: Tensor
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Plan:
    """Who sees whom in one forward. The first `decode` rows are slots 0 … decode - 1, the rest are blocks."""

    blocks: list[Block] = field(default_factory=list)
    decode: int = 0
    slots: Slots | None = None
    groups: list[tuple[Prefix, Tensor]] = field(default_factory=list)
    _decode_bias: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)


@contextmanager
def attending(plan: Plan) -> Iterator[None]:
    """Every forward on this thread follows `plan` until the block ends."""
    if getattr(_open, "plan", None) is not None:
        raise RuntimeError("a plan is already open on this thread")
    _open.plan = plan
    try:
        yield
    finally:
        _open.plan = None


class UnsupportedAttention(RuntimeError):
    """The architecture asks attention for something that a packed row cannot give."""


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The registered attention function: [1, H, T, D] queries to [1, T, H, D] outputs, as `sdpa` returns them."""
    plan: Plan | None = getattr(_open, "plan", None)
    if plan is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **kwargs
        )
        return out, None
    for unknown in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(unknown) is not None:
            raise UnsupportedAttention(f"attention with {unknown}")
    layer = int(getattr(module, "layer_idx"))  # noqa: B009 - Module.__getattr__ is typed as Tensor | Module
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    if plan.decode:
        out[: plan.decode] = _decode(plan, layer, query, key, value, scaling, sliding_window)
    for block in plan.blocks:
        out[block.start : block.stop] = _block(plan, block, layer, query, key, value, scaling, sliding_window)
    return out.unsqueeze(0), None


def _block(
    plan: Plan,
    block: Block,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    rows = slice(block.start, block.stop)
    q, k, v = query[:, :, rows], key[:, :, rows], value[:, :, rows]
    if block.prefix is not None:
        k = torch.cat([block.prefix.keys[layer], k], dim=2)
        v = torch.cat([block.prefix.values[layer], v], dim=2)
    _keep(plan, block, layer, k, v)
    bias = _block_bias(block, window, q.dtype, q.device)
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = (x.repeat_interleave(repeat, dim=1) for x in (k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None, scale=scaling)
    return out[0].transpose(0, 1)


def _keep(plan: Plan, block: Block, layer: int, keys: Tensor, values: Tensor) -> None:
    if block.store is not None:
        block.store.keys[layer], block.store.values[layer] = keys.contiguous(), values.contiguous()
    if block.slot is not None and plan.slots is not None:
        _ensure(plan.slots, layer, keys, values)
        own = keys.shape[2] - block.slot_from
        plan.slots.keys[layer][block.slot, :, :own] = keys[0, :, block.slot_from :]
        plan.slots.values[layer][block.slot, :, :own] = values[0, :, block.slot_from :]


def _ensure(slots: Slots, layer: int, keys: Tensor, values: Tensor) -> None:
    """Room for `capacity` tokens in every slot of this layer."""
    for store, like in ((slots.keys, keys), (slots.values, values)):
        old = store.get(layer)
        if old is not None and old.shape[2] >= slots.capacity:
            continue
        new = like.new_zeros(len(slots.lengths), like.shape[1], slots.capacity, like.shape[3])
        if old is not None:
            new[:, :, : old.shape[2]] = old
        store[layer] = new


def _block_bias(block: Block, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Additive mask [t, P + t] of a block, made once and used by every layer; None is plain causal order."""
    at = (window, dtype)
    if at not in block._bias:
        block._bias[at] = _make_block_bias(block, window, dtype, device)
    return block._bias[at]


def _make_block_bias(block: Block, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    t = block.stop - block.start
    before = block.prefix.length if block.prefix is not None else 0
    own = torch.arange(before, before + t, device=device) if block.positions is None else block.positions.to(device)
    windowed = window is not None and int(own.max()) >= window
    if before == 0 and block.within is None and not windowed:
        return None
    within = torch.ones(t, t, dtype=torch.bool, device=device).tril() if block.within is None else block.within
    sees = torch.cat([torch.ones(t, before, dtype=torch.bool, device=device), within.to(device)], dim=1)
    if windowed and window is not None:
        keys = torch.cat([torch.arange(before, device=device), own])
        sees &= own[:, None] - keys[None, :] < window
    return _additive(sees, dtype)


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, float("-inf"))


def _decode(
    plan: Plan, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """One new token for each of the first n slots: [n, H, D]."""
    slots, n = plan.slots, plan.decode
    assert slots is not None
    _ensure(slots, layer, key, value)
    keys, values, heads = slots.keys[layer], slots.values[layer], key.shape[1]
    rows, at = torch.arange(n, device=key.device), slots.lengths[:n]
    keys[rows, :, at] = key[0, :, :n].transpose(0, 1)
    values[rows, :, at] = value[0, :, :n].transpose(0, 1)
    longest = int(at.max()) + 1
    q = query[0, :, :n].transpose(0, 1).reshape(n, heads, -1, query.shape[-1])
    bias = _decode_bias(plan, longest, window, q.dtype)
    out, lse = attend(q, keys[:n, :, :longest], values[:n, :, :longest], bias, scaling)
    for prefix, members in plan.groups:
        if window is not None and int((slots.offsets + slots.lengths).max()) >= window:
            raise UnsupportedAttention("a shared prefix longer than the sliding window")
        _merge_prefix(q, prefix, members, layer, scaling, out, lse)
    return out.reshape(n, -1, out.shape[-1])


def _decode_bias(plan: Plan, longest: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Additive mask [n, 1, 1, longest]: a slot sees its own tokens up to and including the new one."""
    at = (window, dtype)
    if at not in plan._decode_bias:
        assert plan.slots is not None
        last = plan.slots.lengths[: plan.decode, None]
        columns = torch.arange(longest, device=last.device)[None, :]
        sees = columns <= last
        if window is not None:
            sees &= last - columns < window
        plan._decode_bias[at] = _additive(sees[:, None, None, :], dtype)
    return plan._decode_bias[at]


def _merge_prefix(
    q: Tensor, prefix: Prefix, members: Tensor, layer: int, scaling: float | None, out: Tensor, lse: Tensor
) -> None:
    """Fold a shared prefix into the outputs of its slots, in place. q [n, G, R, D], out like q, lse [n, G, R]."""
    n, heads, repeat, width = len(members), *q.shape[1:]
    packed = q[members].transpose(0, 1).reshape(1, heads, n * repeat, width)
    far, far_lse = attend(packed, prefix.keys[layer], prefix.values[layer], None, scaling)
    far = far.reshape(heads, n, repeat, -1).transpose(0, 1)
    far_lse = far_lse.reshape(heads, n, repeat).transpose(0, 1)
    weight = torch.sigmoid(far_lse - lse[members]).unsqueeze(-1).to(out.dtype)
    out[members] = out[members] * (1 - weight) + far * weight


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scaling: float | None) -> tuple[Tensor, Tensor]:
    """Softmax attention and the log-sum-exp of its scores: [..., t, D] and float32 [..., t]."""
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    scores = torch.matmul(q * scale, k.transpose(-1, -2)).float()
    if bias is not None:
        scores = scores + bias
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse.unsqueeze(-1)).to(v.dtype)
    return torch.matmul(weights, v), lse


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """No mask while a plan is open: the plan says who sees whom."""
    if getattr(_open, "plan", None) is not None:
        return None
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
