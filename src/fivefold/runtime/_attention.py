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
    first ones. `capacity` is the L that the tensors grow to when they are next written.
    """

    capacity: int
    lengths: Tensor
    offsets: Tensor
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Plan:
    """Who sees whom in one forward. The first `decode` rows are slots 0 … decode - 1, the rest are blocks.

    `groups` lists (prefix, its slots), `longest` is the most tokens of any decoding slot, the new one included.
    """

    blocks: list[Block] = field(default_factory=list)
    decode: int = 0
    slots: Slots | None = None
    groups: list[tuple[Prefix, Tensor]] = field(default_factory=list)
    longest: int = 0
    _bias: dict[tuple[int, int | None, torch.dtype], Tensor] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Ask:
    """What one layer asks of attention besides queries, keys and values."""

    layer: int
    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The registered attention function: [1, H, T, D] queries to [1, T, H, D] outputs, as `sdpa` returns them.

    `softcap` bounds the scores (Gemma 2), `s_aux` [H] adds a learnt sink to the softmax (gpt-oss).
    """
    plan: Plan | None = getattr(_open, "plan", None)
    if plan is None:
        more = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, "s_aux": s_aux, **kwargs}
        out: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **more)[0]
        return out, None
    if kwargs.get("position_bias") is not None:
        raise UnsupportedAttention("attention with a position bias")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = int(getattr(module, "layer_idx"))  # noqa: B009 - Module.__getattr__ is typed as Tensor | Module
    ask = Ask(layer, scale, sliding_window, softcap, s_aux)
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    if plan.decode:
        out[: plan.decode] = _decode(plan, ask, query, key, value)
    for block in plan.blocks:
        out[block.start : block.stop] = _block(plan, block, ask, query, key, value)
    return out.unsqueeze(0), None


def _block(plan: Plan, block: Block, ask: Ask, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    rows = slice(block.start, block.stop)
    q, k, v = query[:, :, rows], key[:, :, rows], value[:, :, rows]
    if block.prefix is not None:
        k = torch.cat([block.prefix.keys[ask.layer], k], dim=2)
        v = torch.cat([block.prefix.values[ask.layer], v], dim=2)
    _keep(plan, block, ask.layer, k, v)
    bias = _block_bias(block, ask.window, q.dtype, q.device)
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = (x.repeat_interleave(repeat, dim=1) for x in (k, v))
    if ask.softcap is None and ask.sinks is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None, scale=ask.scale)
        return out[0].transpose(0, 1)
    if bias is None:
        bias = _additive(torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(), q.dtype)
    out, lse = attend(q, k, v, bias, ask)
    return _with_sinks(out[0].transpose(0, 1), lse[0].transpose(0, 1), ask.sinks)


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


def _decode(plan: Plan, ask: Ask, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One new token for each of the first n slots: [n, H, D]."""
    slots, n = plan.slots, plan.decode
    assert slots is not None
    _ensure(slots, ask.layer, key, value)
    keys, values, heads = slots.keys[ask.layer], slots.values[ask.layer], key.shape[1]
    rows, at = torch.arange(n, device=key.device), slots.lengths[:n]
    keys[rows, :, at] = key[0, :, :n].transpose(0, 1)
    values[rows, :, at] = value[0, :, :n].transpose(0, 1)
    longest = plan.longest
    q = query[0, :, :n].transpose(0, 1).reshape(n, heads, -1, query.shape[-1])
    bias = _decode_bias(plan, ask.window, q.dtype)
    out, lse = attend(q, keys[:n, :, :longest], values[:n, :, :longest], bias, ask)
    for group in range(len(plan.groups)):
        _merge_prefix(plan, group, ask, q, out, lse)
    return _with_sinks(out.flatten(1, 2), lse.flatten(1, 2), ask.sinks)


def _decode_bias(plan: Plan, window: int | None, dtype: torch.dtype) -> Tensor:
    """Additive mask [n, 1, 1, longest]: a slot sees its own tokens up to and including the new one."""
    at = (-1, window, dtype)
    if at not in plan._bias:
        assert plan.slots is not None
        last = plan.slots.lengths[: plan.decode, None]
        columns = torch.arange(plan.longest, device=last.device)[None, :]
        sees = columns <= last
        if window is not None:
            sees &= last - columns < window
        plan._bias[at] = _additive(sees[:, None, None, :], dtype)
    return plan._bias[at]


def _merge_prefix(plan: Plan, group: int, ask: Ask, q: Tensor, out: Tensor, lse: Tensor) -> None:
    """Fold a shared prefix into the outputs of its slots, in place. q [n, G, R, D], out like q, lse [n, G, R]."""
    prefix, members = plan.groups[group]
    n, heads, repeat, width = len(members), *q.shape[1:]
    packed = q[members].transpose(0, 1).reshape(1, heads, n * repeat, width)
    bias = _prefix_bias(plan, group, repeat, ask.window, q.dtype)
    far, far_lse = attend(packed, prefix.keys[ask.layer], prefix.values[ask.layer], bias, ask)
    far = far.reshape(heads, n, repeat, -1).transpose(0, 1)
    far_lse = far_lse.reshape(heads, n, repeat).transpose(0, 1)
    near_lse = lse[members]
    weight = torch.sigmoid(far_lse - near_lse).unsqueeze(-1).to(out.dtype)
    out[members] = torch.lerp(out[members], far, weight)
    lse[members] = torch.logaddexp(far_lse, near_lse)


def _prefix_bias(plan: Plan, group: int, repeat: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """Additive mask [n·R, P] where a sliding window hides the start of a prefix from its slots; else None."""
    prefix, members = plan.groups[group]
    assert plan.slots is not None
    if window is None:
        return None
    at = (group, window, dtype)
    if at not in plan._bias:
        last = prefix.length + plan.slots.lengths[members]
        columns = torch.arange(prefix.length, device=last.device)
        plan._bias[at] = _additive(last[:, None] - columns < window, dtype).repeat_interleave(repeat, dim=0)
    return plan._bias[at]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, ask: Ask) -> tuple[Tensor, Tensor]:
    """Softmax attention and the log-sum-exp of its scores: [..., t, D] and float32 [..., t].

    A row that sees nothing has output 0 and log-sum-exp -inf, so it weighs nothing when merged.
    """
    scores = torch.matmul(q * ask.scale, k.transpose(-1, -2)).float()
    if ask.softcap is not None:
        scores = ask.softcap * torch.tanh(scores / ask.softcap)
    if bias is not None:
        scores = scores + bias
    lse = torch.logsumexp(scores, dim=-1)
    floor = torch.where(lse.isneginf(), 0.0, lse).unsqueeze(-1)
    weights = torch.exp(scores - floor).to(v.dtype)
    return torch.matmul(weights, v), lse


def _with_sinks(out: Tensor, lse: Tensor, sinks: Tensor | None) -> Tensor:
    """Outputs [T, H, D] after a sink of score `sinks` [H] has taken its share of the softmax; lse [T, H]."""
    if sinks is None:
        return out
    return out * torch.sigmoid(lse - sinks.float()).unsqueeze(-1).to(out.dtype)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """No mask while a plan is open: the plan says who sees whom."""
    if getattr(_open, "plan", None) is not None:
        return None
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
