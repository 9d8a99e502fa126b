"""From a prefix tree to packed rows: which nodes are computed once and stored, and which share a row.

A node with a large subtree is computed by itself and its keys and values are kept as a prefix while its subtree is
worked on; where it holds a few tokens only ("What is the …"), each block below computes it again, which costs less than
a forward of its own. Small subtrees become blocks: a question and its options in one block under a tree mask. Blocks,
of whatever prefix, are gathered into rows of about `pack_tokens` tokens. Depth first, so only the prefixes of one path,
and of the rows that are still being computed, are alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from fivefold.runtime._plan import Block, Plan, Prefix
from fivefold.runtime._tree import Node
from fivefold.runtime.crew import Crew, even

BLOCK_TOKENS = 256
"""Subtrees up to this many tokens become one block; a larger block wastes attention on what its mask forbids."""

JOIN_TOKENS = 64
"""Neighbouring subtrees share a block up to this many tokens: smaller ones waste the attention kernel's tiles."""

FORWARD = 1 / 128
"""What a forward of its own costs a short node, as a part of the tokens of a full row."""


@dataclass(eq=False)
class Row:
    """One packed row: token ids, positions, its plan, and where each node's tokens lie."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    plan: Plan = field(default_factory=Plan)
    nodes: list[tuple[Node, int]] = field(default_factory=list)

    def add(self, nodes: Sequence[Node], prefix: Prefix | None, store: Prefix | None = None) -> None:
        """Append a block of `nodes`, each after its parent where that is among them."""
        start = len(self.ids)
        for node in nodes:
            self.nodes.append((node, len(self.ids)))
            self.ids.extend(node.tokens)
            self.positions.extend(range(node.start, node.stop))
        chain = all(below.parent is above for above, below in pairwise(nodes))
        self.plan.blocks.append(
            Block(
                start,
                len(self.ids),
                torch.tensor(self.positions[start:]),
                prefix=prefix,
                within=None if chain else _tree_mask(nodes),
                store=store,
            )
        )


Run: TypeAlias = Callable[[Row], None]
"""Computes a row: fills the `store` of its blocks and reads what is wanted of its nodes."""


def _tree_mask(nodes: Sequence[Node]) -> Tensor:
    """Boolean [t, t] over the tokens of `nodes` in order: a token sees its ancestors and what stands before it."""
    total = sum(len(n.tokens) for n in nodes)
    mask = torch.zeros(total, total, dtype=torch.bool)
    spans: dict[Node, tuple[int, int]] = {}
    at = 0
    for node in nodes:
        end = at + len(node.tokens)
        if node.parent in spans:
            _, high = spans[node.parent]
            mask[at:end, :high] = mask[high - 1, :high]
        mask[at:end, at:end] = torch.ones(end - at, end - at, dtype=torch.bool).tril()
        spans[node] = (at, end)
        at = end
    return mask


@dataclass(eq=False)
class Packer:
    """Walks a tree and hands out rows to `run`, side by side where the crew has several workers."""

    run: Run
    pack_tokens: int
    block_tokens: int = BLOCK_TOKENS
    join_tokens: int = JOIN_TOKENS
    crew: Crew = field(default_factory=lambda: Crew(1))
    _row: Row = field(default_factory=Row)

    def walk(self, root: Node) -> None:
        """Hand out everything under `root`; it is computed when the crew has finished."""
        self.pack_tokens = even(root.weight, self.pack_tokens, self.crew.workers)
        self._children(root, None, ())
        self._flush()

    def _children(self, node: Node, prefix: Prefix | None, above: tuple[Node, ...]) -> None:
        """Everything under `node`; the nodes `above`, which end with it, are not stored and are computed with each."""
        forest: list[Node] = []
        weight = 0
        for child in node.children:
            if child.weight > self.block_tokens and child.children:
                self._large(child, prefix, (*above, child))
                continue
            if forest and weight + child.weight > self.join_tokens:
                self._place((*above, *forest), prefix)
                forest, weight = [], 0
            forest, weight = [*forest, *child.walk()], weight + child.weight
        if forest:
            self._place((*above, *forest), prefix)

    def _large(self, node: Node, prefix: Prefix | None, path: tuple[Node, ...]) -> None:
        blocks = min(len(node.children), node.weight // self.join_tokens + 1)
        again = sum(len(n.tokens) for n in path) * (blocks - 1)
        if again <= self.pack_tokens * FORWARD:
            self._children(node, prefix, path)
        else:
            self._children(node, self._store(path, prefix), ())

    def _store(self, path: tuple[Node, ...], prefix: Prefix | None) -> Prefix:
        stored = Prefix(path[-1].stop)
        row = Row()
        row.add(path, prefix, store=stored)
        self.crew.put(lambda: self.run(row)).result()
        return stored

    def _place(self, nodes: tuple[Node, ...], prefix: Prefix | None) -> None:
        weight = sum(len(node.tokens) for node in nodes)
        if self._row.ids and len(self._row.ids) + weight > self.pack_tokens:
            self._flush()
        self._row.add(nodes, prefix)

    def _flush(self) -> None:
        row = self._row
        if row.ids:
            self.crew.put(lambda: self.run(row))
        self._row = Row()
