"""Residual-stream activations of contexts, over the same prefix tree and stopping at the deepest layer that is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fivefold.errors import UsageError
from fivefold.runtime._forward import Engine, Hidden
from fivefold.runtime._packing import Packer, Row
from fivefold.runtime._tree import Node, build

Position: TypeAlias = Literal["last", "mean"] | int


def read(engine: Engine, sequences: Sequence[Sequence[int]], layers: Sequence[int], position: Position) -> Tensor:
    """Float32 [N, len(layers), D]; `position` counts tokens of the sequence, from the end where negative.

    `mean` leaves out the first token, an attention sink whose norm dwarfs all others (Xiao et al. 2023,
    "Efficient streaming language models with attention sinks"); a sequence of one token is its own mean.
    The caller holds the engine's lock.
    """
    if not engine.packed:
        with engine.reading(layers) as hidden:
            return torch.stack([_read_plain(hidden, ids, position) for ids in sequences])
    return _Reader(engine, sequences, layers, position).run()


def _read_plain(hidden: Hidden, ids: Sequence[int], position: Position) -> Tensor:
    stream = torch.stack(hidden(ids, range(len(ids)), None)).cpu()
    if position == "mean":
        return stream[:, 1:].mean(dim=1) if len(ids) > 1 else stream[:, 0]
    return stream[:, _index(position, len(ids))]


def _index(position: Position, length: int) -> int:
    """Position of the token that is read in a sequence of `length` tokens; UsageError when it does not exist."""
    at = length - 1 if position == "last" else int(position)
    at = at + length if at < 0 else at
    if not 0 <= at < length:
        raise UsageError(f"there is no position {position} in a context of {length} tokens")
    return at


class _Reader:
    """Gathers single tokens, or sums along each path from the root."""

    def __init__(
        self, engine: Engine, sequences: Sequence[Sequence[int]], layers: Sequence[int], position: Position
    ) -> None:
        self.engine, self.layers, self.position = engine, layers, position
        self.lengths = [len(s) for s in sequences]
        self.root, self.ends = build(sequences)
        self.wanted: dict[Node, list[tuple[int, int]]] = {}
        self.rows: dict[int, Tensor] = {}
        self.sums: dict[Node, Tensor] = {}
        for index, length in enumerate(self.lengths):
            if position != "mean":
                self._want(index, _index(position, length))
            elif length == 1:
                self._want(index, 0)

    def _want(self, index: int, at: int) -> None:
        node = next(n for n in self.ends[index].path() if n.start <= at < n.stop)
        self.wanted.setdefault(node, []).append((index, at - node.start))

    def run(self) -> Tensor:
        with self.engine.reading(self.layers) as hidden, self.engine.crew() as crew:
            Packer(lambda row: self._compute(hidden, row), self.engine.pack_tokens, crew=crew).walk(self.root)
        return torch.stack([self.rows[i] if i in self.rows else self._mean(i) for i in range(len(self.ends))])

    def _mean(self, index: int) -> Tensor:
        total = torch.stack([self.sums[node] for node in self.ends[index].path()]).sum(dim=0)
        return (total / (self.lengths[index] - 1)).float()

    def _compute(self, hidden: Hidden, row: Row) -> None:
        streams = hidden(row.ids, row.positions, row.plan)
        wanted = [(index, at + offset) for node, at in row.nodes for index, offset in self.wanted.get(node, ())]
        if wanted:
            tokens = torch.tensor([token for _, token in wanted], device=streams[0].device)
            found = torch.stack([stream[tokens] for stream in streams], dim=1).cpu()
            self.rows.update((index, found[i]) for i, (index, _) in enumerate(wanted))
        if self.position == "mean":
            for node, at in row.nodes:
                own = [s[at + (node.start == 0) : at + len(node.tokens)] for s in streams]
                self.sums[node] = torch.stack([s.double().sum(dim=0) for s in own]).cpu()
