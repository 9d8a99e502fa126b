"""Who sees whom in a packed row: prompts and trees as blocks, sequences being decoded as slots, and what they share.

A plan has two kinds of rows. A `Block` is a run of rows that sees a stored `Prefix` (keys and values computed earlier)
and itself under a mask: a prompt, or a tree of questions and their options. The others are single rows, one a slot of
a `Slots` cache: sequences being decoded. The thread that computes holds the plan open, and `_attention` reads it there.

Shapes: T rows, G key/value heads, R query heads a key head, D head width, P prefix tokens, S slots, L slot tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fivefold.runtime._pieces import Pieces

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
            self._bias[at] = additive((ages < window).to(device), dtype).repeat(repeat, 1)
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
            own = [near_bias(block, window, dtype, self.gather.device) for block in self.blocks]
            self._bias[at] = None if all(x is None for x in own) else self._stacked(own, dtype)
        return self._bias[at]

    def _stacked(self, own: list[Tensor | None], dtype: torch.dtype) -> Tensor:
        t = len(self.gather) // len(self.blocks)
        causal = additive(torch.ones(t, t, dtype=torch.bool).tril().to(self.gather.device), dtype)
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
            for block in sorted(self.blocks, key=rows_of, reverse=True):
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


def rows_of(block: Block) -> int:
    """Rows of a block."""
    return block.stop - block.start


def _joins(block: Block, group: list[Block]) -> bool:
    """Whether a block no longer than those of `group` is worth its padding, and the scores of all have room."""
    longest = rows_of(group[0])
    return rows_of(block) >= PADDED * longest and (len(group) + 1) * longest**2 <= BATCH_SCORES


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


def near_bias(block: Block, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
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
        block._bias[at] = None if sees is None else additive(sees.to(device), dtype)
    return block._bias[at]


def additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a row sees a column, -inf where it does not."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, float("-inf"))
