"""Forward passes over candidate suffixes, in which whatever candidates share is computed once.

A candidate differs from the current suffix in few places. Everything before the first of them (the template, the
request, the head of the suffix) has been computed when the gradient was taken, and is a `Stem`; what is computed for
a candidate starts at its first new token. Two ways to do it, with equal results:

- `Plain` asks nothing of the module but a key-value cache: candidates in order of their first new token, a chunk at a
  time, each chunk from the earliest first new token in it.
- `Packed` takes a module whose attention follows a plan (`runtime`): candidates of any length stand one after another
  in one row without padding, each from its own first new token.

Shapes: N candidates, T goal tokens, V vocabulary, G key/value heads, H head width, W residual width, c stem tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fivefold.errors import ModelError
from fivefold.redteam._gcg_prompt import Ids
from fivefold.runtime._forward import Engine
from fivefold.runtime._plan import Block, Plan, Prefix

T = TypeVar("T")

BLOCK = 8
"""Candidates in one attention block: they see each other's keys masked, so more of them would be waste."""


@dataclass(frozen=True, eq=False)
class Stem:
    """Tokens that need no computing again: keys and values [1, G, c, H] a layer, and the residual stream [c, W] after
    each watched layer. Without keys it is empty and `length` is 0."""

    length: int = 0
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    streams: Mapping[int, Tensor] = field(default_factory=dict)

    def cut(self, length: int) -> Stem:
        """The first `length` tokens, as views."""
        return Stem(
            length=length,
            keys=tuple(k[:, :, :length] for k in self.keys),
            values=tuple(v[:, :, :length] for v in self.values),
            streams={layer: s[:length] for layer, s in self.streams.items()},
        )

    def cache(self, batch: int) -> Any:
        """A fresh transformers cache that holds these tokens for `batch` sequences."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1), layer)
        return cache


@dataclass(frozen=True)
class Group:
    """Candidates (by index) that are computed from position `start` on, all before it being the stem's."""

    members: tuple[int, ...]
    start: int


@dataclass(frozen=True, eq=False)
class Reading:
    """What a forward says of a group of g candidates: float32 logits [g, T, V] where the goal is predicted, and the
    residual stream [g, t, W] of the t computed tokens after each watched layer."""

    logits: Tensor
    streams: Mapping[int, Tensor]


class Forward(Protocol):
    """One way to compute groups; `workers` forwards at a time."""

    @property
    def workers(self) -> int: ...

    def plan(self, starts: Sequence[int], length: int, limit: int) -> Iterator[list[Group]]:
        """Groups for candidates of `length` tokens with these first new positions; one list a forward, of about
        `limit` tokens."""
        ...

    def read(self, groups: Sequence[Group], rows: Sequence[Ids], stem: Stem) -> list[Reading]:
        """One forward over `groups`, called from `all`; `rows` are all candidates' whole sequences."""
        ...

    def all(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The results of `calls`, in their order, each of which reads groups."""
        ...


@dataclass(eq=False)
class Plain:
    """The module's ordinary forward on a key-value cache. `n_goal` is T; `watched` are decoder layers."""

    module: Any
    layers: nn.ModuleList
    watched: tuple[int, ...]
    n_goal: int
    workers: int = 1

    def plan(self, starts: Sequence[int], length: int, limit: int) -> Iterator[list[Group]]:
        """Chunks of neighbours in order of their start, each from its earliest start."""
        order = sorted(range(len(starts)), key=starts.__getitem__)
        while order:
            start = starts[order[0]]
            size = max(1, limit // (length - start))
            yield [Group(tuple(order[:size]), start)]
            order = order[size:]

    @torch.no_grad()
    def read(self, groups: Sequence[Group], rows: Sequence[Ids], stem: Stem) -> list[Reading]:
        """One forward for the single group of a chunk."""
        (group,) = groups
        device = self.module.get_input_embeddings().weight.device
        ids = torch.tensor([rows[i][group.start :] for i in group.members], device=device)
        return [self.forward(stem.cut(group.start), input_ids=ids)[0]]

    def all(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """One after the other."""
        return [call() for call in calls]

    def forward(self, stem: Stem, *, keep: bool = False, **tokens: Tensor) -> tuple[Reading, Any]:
        """Reading of `input_ids` [g, t] or `inputs_embeds` [g, t, W] that follow `stem`; with `keep` also the filled
        cache."""
        (batch,) = tokens.values()
        past: dict[str, Any] = {"use_cache": False}
        if stem.length or keep:
            past = {"use_cache": True, "past_key_values": stem.cache(len(batch))}
        with watching(self.layers, self.watched) as streams:
            out = self.module(**tokens, **past, logits_to_keep=self.n_goal)
        return Reading(out.logits[:, -self.n_goal :].float(), streams), past.get("past_key_values")

    def stem(self, cache: Any, before: Stem, reading: Reading, length: int) -> Stem:
        """The first `length` tokens of a sequence after a forward that followed `before` and filled `cache`."""
        keys = [getattr(layer, "keys", None) for layer in cache.layers]
        if len(keys) != len(self.layers) or not all(
            k is not None and k.ndim == 4 and k.shape[2] >= length for k in keys
        ):
            raise ModelError(
                f"{type(self.module).__name__} does not keep keys and values of every token, so nothing can be shared",
                next_step="run gcg with use_prefix_cache: false",
            )
        streams = {
            layer: torch.cat([before.streams[layer], s[0].detach()]) if before.length else s[0].detach()
            for layer, s in reading.streams.items()
        }
        filled = tuple(layer.keys.detach() for layer in cache.layers), tuple(x.values.detach() for x in cache.layers)
        return Stem(length, *filled, streams).cut(length)


@dataclass(eq=False)
class Packed:
    """Rows without padding on a module whose attention follows a plan."""

    engine: Engine
    watched: tuple[int, ...]
    n_goal: int

    def plan(self, starts: Sequence[int], length: int, limit: int) -> Iterator[list[Group]]:
        """Rows of groups of equal start."""
        row: list[Group] = []
        free = limit
        for group in _equal_starts(starts):
            tokens = len(group.members) * (length - group.start)
            if row and tokens > free:
                yield row
                row, free = [], limit
            row.append(group)
            free -= tokens
        if row:
            yield row

    @torch.no_grad()
    def read(self, groups: Sequence[Group], rows: Sequence[Ids], stem: Stem) -> list[Reading]:
        """One forward for all groups."""
        length, at = len(rows[0]), 0
        ids: list[int] = []
        positions: list[int] = []
        blocks, wanted = [], []
        for group in groups:
            size, t = len(group.members), length - group.start
            ids += [i for m in group.members for i in rows[m][group.start :]]
            positions += [*range(group.start, length)] * size
            wanted += [at + (m + 1) * t - self.n_goal + k for m in range(size) for k in range(self.n_goal)]
            blocks.append(_block(at, size, t, group.start, stem, self.engine.device))
            at += size * t
        with watching(self.engine.layers, self.watched) as streams:
            logits = self.engine.forward(ids, positions, Plan(blocks), wanted)
        return _split(groups, length, logits, streams, self.n_goal)

    @property
    def workers(self) -> int:
        """How many rows are computed side by side; what is watched is watched one row at a time."""
        return 1 if self.watched else self.engine.workers

    def all(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Side by side."""
        with self.engine.lock, self.engine.crew(self.workers) as crew:
            found = [crew.put(call) for call in calls]
        return [future.result() for future in found]


def _equal_starts(starts: Sequence[int]) -> Iterator[Group]:
    order = sorted(range(len(starts)), key=starts.__getitem__)
    for start, same in groupby(order, key=starts.__getitem__):
        members = tuple(same)
        for i in range(0, len(members), BLOCK):
            yield Group(members[i : i + BLOCK], start)


def _block(at: int, size: int, t: int, start: int, stem: Stem, device: torch.device) -> Block:
    """`size` sequences of `t` tokens that see the stem's first `start` tokens and, of the row, only themselves."""
    cut = stem.cut(start)
    prefix = Prefix(start, dict(enumerate(cut.keys)), dict(enumerate(cut.values))) if start else None
    own = torch.arange(start, start + t, device=device).repeat(size)
    owner = torch.arange(size, device=device).repeat_interleave(t)
    within = (owner[:, None] == owner) & (own[:, None] >= own)
    return Block(at, at + size * t, prefix=prefix, within=within, positions=own)


def _split(
    groups: Sequence[Group], length: int, logits: Tensor, streams: Mapping[int, Tensor], n_goal: int
) -> list[Reading]:
    readings, row, member = [], 0, 0
    for group in groups:
        size, t = len(group.members), length - group.start
        own = {layer: s[0, row : row + size * t].reshape(size, t, -1) for layer, s in streams.items()}
        scores = logits[member * n_goal : (member + size) * n_goal].reshape(size, n_goal, -1)
        readings.append(Reading(scores, own))
        row, member = row + size * t, member + size
    return readings


@contextmanager
def watching(layers: nn.ModuleList, watched: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the residual stream after each of `watched` during the forward inside."""
    streams: dict[int, Tensor] = {}

    def catch(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            streams[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [layers[layer].register_forward_hook(catch(layer)) for layer in watched]
    try:
        yield streams
    finally:
        for handle in handles:
            handle.remove()
