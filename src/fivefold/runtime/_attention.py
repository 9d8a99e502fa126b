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

from fivefold.runtime._pieces import NATIVE_GROUPS, Pieces, attend_in_pieces, merge

NAME = "fivefold"

PADDED = 0.7
"""Blocks are seen in one call with others of at least this part of their length."""

BATCH_SCORES = 1 << 20
"""Most scores a head in such a call: its memory, where no fused kernel does it."""

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

    `within` is boolean [t, t] (row sees column), or None for plain causal order. `positions` [t] are the tokens'
    positions in their own sequences. `store` receives the keys and values of prefix and rows together; `slot` is the
    slot of the decode cache that takes them from position `slot_from` on.
    """

    start: int
    stop: int
    positions: Tensor
    prefix: Prefix | None = None
    within: Tensor | None = None
    store: Prefix | None = None
    slot: int | None = None
    slot_from: int = 0
    _bias: dict[tuple[int | None, torch.dtype], Tensor | None] = field(default_factory=dict)


@dataclass(eq=False)
class Run:
    """Neighbouring blocks with the same prefix: rows `start:stop`, which read it together."""

    start: int
    stop: int
    prefix: Prefix
    positions: Tensor
    _bias: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    def bias(self, window: int | None, repeat: int, dtype: torch.dtype) -> Tensor | None:
        """Additive mask [R·t, P] where a sliding window hides the start of the prefix from these rows; else None."""
        if window is None or int(self.positions.max()) < window:
            return None
        at = (window, dtype)
        if at not in self._bias:
            device = next(iter(self.prefix.keys.values())).device
            ages = self.positions[:, None] - torch.arange(self.prefix.length)
            self._bias[at] = _additive((ages < window).to(device), dtype).repeat(repeat, 1)
        return self._bias[at]


@dataclass(eq=False)
class Batch:
    """Blocks of similar length, whose own rows are seen in one call, each padded to the longest: [B, t].

    `gather` [B·t] is the row at each place (padding repeats the block's first), `places` [n] are the places that are no
    padding, and `rows` [n] the rows there.
    """

    blocks: list[Block]
    gather: Tensor
    places: Tensor
    rows: Tensor
    _bias: dict[tuple[int | None, torch.dtype], Tensor | None] = field(default_factory=dict)

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive mask [B, 1, t, t], made once and used by every layer; None is plain causal order."""
        at = (window, dtype)
        if at not in self._bias:
            own = [_near_bias(block, window, dtype, self.gather.device) for block in self.blocks]
            self._bias[at] = None if all(x is None for x in own) else self._stacked(own, dtype)
        return self._bias[at]

    def _stacked(self, own: list[Tensor | None], dtype: torch.dtype) -> Tensor:
        t = len(self.gather) // len(self.blocks)
        causal = _additive(torch.ones(t, t, dtype=torch.bool).tril().to(self.gather.device), dtype)
        stacked = causal.repeat(len(own), 1, 1, 1)
        for at, bias in enumerate(own):
            if bias is not None:
                stacked[at, 0, : len(bias), : len(bias)] = bias
        return stacked


def _batched(blocks: list[Block], device: torch.device) -> Batch:
    sizes = [block.stop - block.start for block in blocks]
    longest = max(sizes)
    own = torch.arange(longest)
    gather = torch.stack([torch.where(own < n, b.start + own, b.start) for b, n in zip(blocks, sizes, strict=True)])
    places = (own < torch.tensor(sizes)[:, None]).flatten().nonzero()[:, 0]
    gather = gather.flatten()
    return Batch(blocks, gather.to(device), places.to(device), gather[places].to(device))


@dataclass(eq=False)
class Reading:
    """What is read of a row after its last layer: there only the rows `rows` [n], in order, ask; the others are seen.

    `gathering` while the last layer is asked for nothing but its keys and values, which are [1, G, T, D] then.
    """

    rows: Tensor
    gathering: bool = False
    keys: Tensor | None = None
    values: Tensor | None = None


class KeysKnown(Exception):
    """Raised by attention to end a forward whose last layer was asked for its keys and values alone."""


@dataclass(eq=False)
class Slots:
    """Keys and values of the sequences being decoded, from where their shared prefix ends: [S, G, L, D] a layer. In memory the
    keys lie as [S, G, D, L], the way in which a step multiplies them.

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
    `pieces` says of the whole row what the blocks say, where that is known to be cheaper and nothing is stored.
    """

    blocks: list[Block] = field(default_factory=list)
    decode: int = 0
    slots: Slots | None = None
    groups: list[tuple[Prefix, Tensor | slice]] = field(default_factory=list)
    longest: int = 0
    reading: Reading | None = None
    pieces: Pieces | None = None
    _bias: dict[tuple[int, int | None, torch.dtype], Tensor] = field(default_factory=dict)
    _runs: list[Run] | None = None
    _batches: list[Block | Batch] | None = None

    def runs(self) -> list[Run]:
        """The blocks that have a prefix, neighbours with the same one joined."""
        if self._runs is None:
            self._runs = []
            for block in self.blocks:
                last = self._runs[-1] if self._runs else None
                if block.prefix is None:
                    continue
                if last is not None and last.prefix is block.prefix and last.stop == block.start:
                    last.stop, last.positions = block.stop, torch.cat([last.positions, block.positions])
                else:
                    self._runs.append(Run(block.start, block.stop, block.prefix, block.positions))
        return self._runs

    def batches(self, device: torch.device) -> list[Block | Batch]:
        """The blocks for what they see of themselves: those of similar length together, others alone."""
        if self._batches is None:
            groups: list[list[Block]] = []
            for block in sorted(self.blocks, key=_size, reverse=True):
                if groups and _joins(block, groups[-1]):
                    groups[-1].append(block)
                else:
                    groups.append([block])
            self._batches = [group[0] if len(group) == 1 else _batched(group, device) for group in groups]
        return self._batches

    def forget(self) -> None:
        """Drop the keys and values of the layers so far, where no later forward reads them."""
        for block in self.blocks:
            if block.store is not None:
                block.store.keys.clear()
                block.store.values.clear()


def _size(block: Block) -> int:
    return block.stop - block.start


def _joins(block: Block, group: list[Block]) -> bool:
    """Whether a block no longer than those of `group` is worth its padding, and the scores of all have room."""
    longest = _size(group[0])
    return _size(block) >= PADDED * longest and (len(group) + 1) * longest**2 <= BATCH_SCORES


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


def open_plan() -> Plan | None:
    """The plan that forwards on this thread follow now."""
    plan: Plan | None = getattr(_open, "plan", None)
    return plan


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
        bias = _near_bias(block, ask.window, query.dtype, query.device)
        if bias is None:
            bias = _additive(torch.ones(_size(block), _size(block), dtype=torch.bool).tril(), query.dtype)
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
    bias = _near_bias(block, ask.window, q.dtype, q.device)
    if block.prefix is not None:
        k = torch.cat([block.prefix.keys[ask.layer], k], dim=2)
        v = torch.cat([block.prefix.values[ask.layer], v], dim=2)
        bias = _whole_bias(block, bias, ask.window, q)
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = (x.repeat_interleave(repeat, dim=1) for x in (k, v))
    if ask.softcap is None and ask.sinks is None:
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None, scale=ask.scale)
        return seen[0].transpose(0, 1)
    scores = q @ k.transpose(-1, -2) * ask.scale
    if ask.softcap is not None:
        scores = ask.softcap * torch.tanh(scores / ask.softcap)
    if bias is None:
        bias = _additive(torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(), q.dtype)
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
        near = _additive(torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril(), q.dtype)
    far = near.new_zeros(q.shape[2], block.prefix.length)
    if window is not None:
        ages = block.positions[:, None] - torch.arange(block.prefix.length)
        far = _additive((ages < window).to(near.device), near.dtype)
    return torch.cat([far, near], dim=1)


def _near(block: Block, ask: Ask, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor) -> None:
    """What the rows of a block see of each other."""
    rows = slice(block.start, block.stop)
    k, v = _repeated(query, key[:, :, rows], value[:, :, rows], ask)
    bias = _near_bias(block, ask.window, query.dtype, query.device)
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
    if old is None or old.shape[2] < slots.capacity:
        n, heads, width = len(slots.lengths), like.shape[1], like.shape[3]
        if side == "keys":
            store[layer] = like.new_zeros(n, heads, width, slots.capacity).transpose(-1, -2)
        else:
            store[layer] = like.new_zeros(n, heads, slots.capacity, width)
        if old is not None:
            store[layer][:, :, : old.shape[2]] = old
    return store[layer]


def _near_bias(block: Block, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Additive mask [t, t] of a block, made once and used by every layer; None is plain causal order."""
    at = (window, dtype)
    if at not in block._bias:
        t = block.stop - block.start
        hidden = window is not None and t > window
        sees = block.within
        if sees is None and hidden:
            sees = torch.ones(t, t, dtype=torch.bool).tril()
        if sees is not None and hidden and window is not None:
            sees = sees & (block.positions[:, None] - block.positions[None, :] < window)
        block._bias[at] = None if sees is None else _additive(sees.to(device), dtype)
    return block._bias[at]


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, float("-inf"))


def _decode(plan: Plan, ask: Ask, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor) -> None:
    """One new token for each of the first n slots."""
    slots, n = plan.slots, plan.decode
    assert slots is not None
    keys, values = (_ensure(slots, side, ask.layer, new) for side, new in (("keys", key), ("values", value)))
    rows, at = torch.arange(n, device=key.device), slots.lengths[:n]
    keys[rows, :, at] = key[0, :, :n].transpose(0, 1)
    values[rows, :, at] = value[0, :, :n].transpose(0, 1)
    q = query[0, :, :n].transpose(0, 1).reshape(n, key.shape[1], -1, query.shape[-1])
    bias = _decode_bias(plan, ask.window, q.dtype)
    near, weight = _attend_slots(q, keys[:n, :, : plan.longest], values[:n, :, : plan.longest], bias, ask)
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
    merge(near, near_lse, far.reshape(heads, n, repeat, -1).transpose(0, 1), far_lse)
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
        plan._bias[at] = _additive(last[:, None] - columns < window, dtype).repeat_interleave(repeat, dim=0)
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
        bias = _additive(torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(), scores.dtype)
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
