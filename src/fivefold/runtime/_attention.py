"""Attention over a packed row in which many sequences, and what they share, are computed at once.

A row holds the new tokens of all sequences one after another, without padding: `[1, T]`. Projections, norms and MLPs of
the ordinary Hugging Face module work on single tokens and do not notice. Only attention must know who sees whom, and
Hugging Face lets it be registered: the function here reads a `Plan` that the caller holds open on this thread. Without
a plan it is plain `sdpa`, so a module that carries it behaves as always for everybody else.

What several sequences share is read once for all of them, and the two partial softmaxes are merged by their log-sum-exp
(Juravsky et al. 2024, "Hydragen", section 3.2).

Shapes: T rows, H query heads, G key/value heads, R = H / G, D head width, P prefix tokens, S slots, L slot tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fivefold.runtime._pieces import NATIVE_GROUPS, Pieces, attend_in_pieces, merge
from fivefold.runtime._plan import Batch, Block, Plan, Reading, Run, Slots, additive, near_bias, open_plan, rows_of

NAME = "fivefold"


class KeysKnown(Exception):
    """Raised by attention to end a forward whose last layer was asked for its keys and values alone."""


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
    plan = open_plan()
    if plan is None:
        more = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, "s_aux": s_aux, **kwargs}
        out: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **more)[0]
        return out, None
    if kwargs.get("position_bias") is not None:
        raise UnsupportedAttention("attention with a position bias")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = int(getattr(module, "layer_idx"))  # noqa: B009 - Module.__getattr__ is typed as Tensor | Module
    ask = Ask(layer, scale, sliding_window, softcap, s_aux)
    if plan.pieces is not None and _is_plain(ask, plan.pieces, query):
        return attend_in_pieces(query, key, value, plan.pieces, scale), None
    if torch.is_grad_enabled() and query.requires_grad:
        return _with_gradients(plan, ask, query, key, value), None
    reading = plan.reading
    if reading is not None and reading.gathering:
        reading.keys, reading.values = key, value
        for block in plan.blocks:
            _keep(plan, block, ask.layer, key[:, :, block.start : block.stop], value[:, :, block.start : block.stop])
        raise KeysKnown
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    lse = torch.empty(out.shape[:2], dtype=torch.float32, device=out.device)
    if reading is not None and reading.keys is not None:
        _read_only(plan, reading, ask, query, out, lse)
    else:
        _whole_row(plan, ask, query, key, value, out, lse)
    return _with_sinks(out, lse, s_aux).unsqueeze(0), None


def _is_plain(ask: Ask, pieces: Pieces, query: Tensor) -> bool:
    """Whether the fused kernel on a CPU does all that a layer asks."""
    near = ask.window is None or pieces.reach < ask.window
    return near and ask.softcap is None and ask.sinks is None and query.device.type == "cpu"


def _whole_row(plan: Plan, ask: Ask, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor) -> None:
    """Every row asks."""
    if plan.decode:
        _decode(plan, ask, query, key, value, out, lse)
    for block in plan.blocks:
        _keep(plan, block, ask.layer, key[:, :, block.start : block.stop], value[:, :, block.start : block.stop])
    for part in plan.batches(query.device):
        if isinstance(part, Batch):
            _near_together(part, ask, query, key, value, out, lse)
        else:
            _near(part, ask, query, key, value, out, lse)
    for run in plan.runs():
        _far(run, ask, query, out, lse)


def _read_only(plan: Plan, reading: Reading, ask: Ask, query: Tensor, out: Tensor, lse: Tensor) -> None:
    """Only the rows that are read ask, of the keys and values of all: query [1, H, n, D], out [n, H, D]."""
    assert reading.keys is not None and reading.values is not None
    rows = reading.rows.cpu()

    def span(start: int, stop: int) -> slice:
        first, end = torch.searchsorted(rows, torch.tensor([start, stop])).tolist()
        return slice(first, end)

    for block in plan.blocks:
        at = span(block.start, block.stop)
        if at.start == at.stop:
            continue
        k, v = (x[:, :, block.start : block.stop] for x in (reading.keys, reading.values))
        bias = near_bias(block, ask.window, query.dtype, query.device)
        if bias is None:
            bias = additive(torch.ones(rows_of(block), rows_of(block), dtype=torch.bool).tril(), query.dtype)
        own = bias.to(query.device)[(reading.rows[at] - block.start)]
        k, v = _repeated(query, k, v, ask)
        seen, weight = attend(query[:, :, at], k, v, own, ask)
        out[at], lse[at] = seen[0].transpose(0, 1), weight[0].transpose(0, 1)
    for run in plan.runs():
        at = span(run.start, run.stop)
        if at.start < at.stop:
            _far(Run(at.start, at.stop, run.prefix, run.positions[rows[at] - run.start]), ask, query, out, lse)


def _repeated(query: Tensor, keys: Tensor, values: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
    """Keys and values [1, G, t, D] once for each query head: [1, H, t, D]; as they are where the kernel does without."""
    repeat = query.shape[1] // keys.shape[1]
    if repeat == 1 or (NATIVE_GROUPS and query.device.type == "cpu" and ask.softcap is None):
        return keys, values
    return keys.repeat_interleave(repeat, dim=1), values.repeat_interleave(repeat, dim=1)


def _with_gradients(plan: Plan, ask: Ask, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same in operations that autograd follows: log-sum-exp weights of fused kernels carry no gradient, so each
    block reads its prefix and itself as one sequence of keys."""
    if plan.decode:
        raise UnsupportedAttention("gradients through the decode cache")
    # one split in place of a slice a block: the gradient of a slice is as long as the row
    sizes = [block.stop - block.start for block in plan.blocks]
    parts = zip(plan.blocks, *(torch.split(x, sizes, dim=2) for x in (query, key, value)), strict=True)
    return torch.cat([_whole(plan, block, ask, q, k, v) for block, q, k, v in parts]).unsqueeze(0)


def _whole(plan: Plan, block: Block, ask: Ask, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    _keep(plan, block, ask.layer, k, v)
    bias = near_bias(block, ask.window, q.dtype, q.device)
    if block.prefix is not None:
        k = torch.cat([block.prefix.keys[ask.layer], k], dim=2)
        v = torch.cat([block.prefix.values[ask.layer], v], dim=2)
        bias = _whole_bias(block, bias, ask.window, q)
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = (x.repeat_interleave(repeat, dim=1) for x in (k, v))
    if ask.softcap is None and ask.sinks is None:
        kind = torch.promote_types(q.dtype, torch.float32) if q.device.type == "cpu" else q.dtype  # as in `_pieces`
        wide, mask = q.to(kind), None if bias is None else bias.to(kind)
        seen = F.scaled_dot_product_attention(
            wide, k.to(kind), v.to(kind), attn_mask=mask, is_causal=bias is None, scale=ask.scale
        )
        return seen[0].transpose(0, 1).to(q.dtype)
    scores = q @ k.transpose(-1, -2) * ask.scale
    if ask.softcap is not None:
        scores = ask.softcap * torch.tanh(scores / ask.softcap)
    if bias is None:
        bias = additive(torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(), q.dtype)
    scores = scores + bias
    if ask.sinks is not None:
        sinks = ask.sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.float().softmax(-1).to(v.dtype)
    return (weights[..., : v.shape[2]] @ v)[0].transpose(0, 1)


def _whole_bias(block: Block, near: Tensor | None, window: int | None, q: Tensor) -> Tensor:
    """Additive mask [t, P + t]: a block's own mask, with its prefix before it."""
    assert block.prefix is not None
    if near is None:
        near = additive(torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril(), q.dtype)
    far = near.new_zeros(q.shape[2], block.prefix.length)
    if window is not None:
        ages = block.positions[:, None] - torch.arange(block.prefix.length)
        far = additive((ages < window).to(near.device), near.dtype)
    return torch.cat([far, near], dim=1)


def _near(block: Block, ask: Ask, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor) -> None:
    """What the rows of a block see of each other."""
    rows = slice(block.start, block.stop)
    k, v = _repeated(query, key[:, :, rows], value[:, :, rows], ask)
    bias = near_bias(block, ask.window, query.dtype, query.device)
    seen, weight = attend(query[:, :, rows], k, v, bias, ask, causal=block.within is None)
    out[rows], lse[rows] = seen[0].transpose(0, 1), weight[0].transpose(0, 1)


def _near_together(batch: Batch, ask: Ask, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor) -> None:
    """The same for blocks of similar length at once."""
    size = len(batch.blocks)
    k, v = _repeated(query, key, value, ask)
    q, k, v = (
        x[0].transpose(0, 1).index_select(0, batch.gather).reshape(size, -1, *x.shape[1::2]).transpose(1, 2)
        for x in (query, k, v)
    )
    seen, weight = attend(q, k, v, batch.bias(ask.window, query.dtype), ask, causal=True)
    out.index_copy_(0, batch.rows, seen.transpose(1, 2).flatten(0, 1).index_select(0, batch.places))
    lse.index_copy_(0, batch.rows, weight.transpose(1, 2).flatten(0, 1).index_select(0, batch.places))


def _far(run: Run, ask: Ask, query: Tensor, out: Tensor, lse: Tensor) -> None:
    """Fold what a run of blocks sees of its prefix into what is there; heads of a group share one read of the keys."""
    keys, values = run.prefix.keys[ask.layer], run.prefix.values[ask.layer]
    rows, groups = run.stop - run.start, keys.shape[1]
    q = query[:, :, run.start : run.stop].reshape(1, groups, -1, query.shape[-1])
    repeat = q.shape[2] // rows
    bias = run.bias(ask.window, repeat, q.dtype)
    seen, weight = attend(q, keys, values, bias, ask, sparse=bias is not None)
    seen = seen.reshape(-1, rows, seen.shape[-1]).transpose(0, 1)
    merge(out[run.start : run.stop], lse[run.start : run.stop], seen, weight.reshape(-1, rows).transpose(0, 1))


def _keep(plan: Plan, block: Block, layer: int, keys: Tensor, values: Tensor) -> None:
    """Put a block's keys and values where later forwards find them: into its `store`, or into its slot."""
    for new, side in ((keys, "keys"), (values, "values")):
        before = getattr(block.prefix, side)[layer] if block.prefix is not None else None
        if block.store is not None:
            getattr(block.store, side)[layer] = new.contiguous() if before is None else torch.cat([before, new], dim=2)
        if block.slot is not None and plan.slots is not None:
            _fill(plan.slots, side, layer, block, before, new)


def _fill(slots: Slots, side: str, layer: int, block: Block, before: Tensor | None, new: Tensor) -> None:
    """Tokens of a joining sequence from position `slot_from` on, the known ones and then the new ones."""
    store = _ensure(slots, side, layer, new)
    known = 0
    if before is not None and before.shape[2] > block.slot_from:
        known = before.shape[2] - block.slot_from
        store[block.slot, :, :known] = before[0, :, block.slot_from :]
    store[block.slot, :, known : known + new.shape[2]] = new[0]


def _ensure(slots: Slots, side: str, layer: int, like: Tensor) -> Tensor:
    """The tensor of one side of a layer, with room for `capacity` tokens in every slot."""
    store: dict[int, Tensor] = getattr(slots, side)
    old = store.get(layer)
    kind = slot_dtype(like.device, like.dtype)
    if old is None or old.shape[2] < slots.capacity:
        n, heads, width = len(slots.lengths), like.shape[1], like.shape[3]
        if side == "keys":
            store[layer] = like.new_zeros(n, heads, width, slots.capacity, dtype=kind).transpose(-1, -2)
        else:
            store[layer] = like.new_zeros(n, heads, slots.capacity, width, dtype=kind)
        if old is not None:
            store[layer][:, :, : old.shape[2]] = old
    return store[layer]


def _decode(plan: Plan, ask: Ask, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor) -> None:
    """One new token for each of the first n slots."""
    slots, n = plan.slots, plan.decode
    assert slots is not None
    keys, values = (_ensure(slots, side, ask.layer, new) for side, new in (("keys", key), ("values", value)))
    rows, at = torch.arange(n, device=key.device), slots.lengths[:n]
    keys[rows, :, at] = key[0, :, :n].transpose(0, 1).to(keys.dtype)
    values[rows, :, at] = value[0, :, :n].transpose(0, 1).to(values.dtype)
    q = query[0, :, :n].transpose(0, 1).reshape(n, key.shape[1], -1, query.shape[-1])
    bias = _decode_bias(plan, ask.window, keys.dtype)
    near, weight = _attend_slots(
        q.to(keys.dtype), keys[:n, :, : plan.longest], values[:n, :, : plan.longest], bias, ask
    )
    for group in range(len(plan.groups)):
        _decode_far(plan, group, ask, q, near, weight)
    out[:n], lse[:n] = near.flatten(1, 2), weight.flatten(1, 2)


def _attend_slots(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
    """Attention of one token a slot, and the log-sum-exp of its scores: [n, G, R, D] and float32 [n, G, R]. Every slot sees
    its own token at least."""
    scores = torch.matmul(q * ask.scale, keys.transpose(-1, -2)).float()
    if ask.softcap is not None:
        scores = scores.div_(ask.softcap).tanh_().mul_(ask.softcap)
    most = scores.add_(bias).amax(dim=-1, keepdim=True)
    total = scores.sub_(most).exp_().sum(dim=-1, keepdim=True)
    out = torch.matmul(scores.to(values.dtype), values).div_(total.to(values.dtype))
    return out, total.log_().add_(most).squeeze(-1)


def slot_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What keys and values of sequences being decoded are kept in. On a CPU, products of one row a slot are no faster in half
    precision: torch copies what it multiplies there."""
    return torch.promote_types(dtype, torch.float32) if device.type == "cpu" else dtype


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
        plan._bias[at] = additive(sees[:, None, None, :], dtype)
    return plan._bias[at]


def _decode_far(plan: Plan, group: int, ask: Ask, q: Tensor, out: Tensor, lse: Tensor) -> None:
    """Fold a prefix that several slots share into their outputs. q and out [n, G, R, D], lse [n, G, R]."""
    prefix, members = plan.groups[group]
    mine, near, near_lse = q[members], out[members], lse[members]
    n, heads, repeat, width = mine.shape
    packed = mine.transpose(0, 1).reshape(1, heads, n * repeat, width)
    bias = _prefix_bias(plan, group, repeat, ask.window, q.dtype)
    keys, values = prefix.keys[ask.layer], prefix.values[ask.layer]
    far, far_lse = attend(packed, keys, values, bias, ask, sparse=bias is not None)
    far_lse = far_lse.reshape(heads, n, repeat).transpose(0, 1)
    merge(near, near_lse, far.reshape(heads, n, repeat, -1).transpose(0, 1).to(near.dtype), far_lse)
    if not isinstance(members, slice):
        out[members], lse[members] = near, near_lse


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
        plan._bias[at] = additive(last[:, None] - columns < window, dtype).repeat_interleave(repeat, dim=0)
    return plan._bias[at]


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, ask: Ask, *, causal: bool = False, sparse: bool = False
) -> tuple[Tensor, Tensor]:
    """Softmax attention and the log-sum-exp of its scores: [..., t, D] and float32 [..., t].

    `causal` holds where no `bias` is given. A row that sees nothing has output 0 and log-sum-exp -inf, so that it
    weighs nothing when merged; `sparse` says that there may be such rows. Else, on a CPU, the fused kernel does it.
    """
    if q.device.type == "cpu" and ask.softcap is None and not sparse:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = fused(q, k, v, 0.0, causal and bias is None, attn_mask=bias, scale=ask.scale)
        return out, lse.float()
    scores = torch.matmul(q * ask.scale, k.transpose(-1, -2)).float()
    if ask.softcap is not None:
        scores = ask.softcap * torch.tanh(scores / ask.softcap)
    if bias is None and causal:
        bias = additive(torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(), scores.dtype)
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
    if open_plan() is not None:
        return None
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
