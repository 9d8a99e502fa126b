"""A radix tree over token sequences: what several sequences share at their start is one node, computed once.

Pure data, no torch. A sequence that is a prefix of another ends at a node's end, so every sequence is exactly a path
from the root. Nodes come in depth-first order of the sorted sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Node:
    """A run of tokens that all sequences below it share.

    `start` is the position of its first token in those sequences, `ends` are the indices of the sequences that end
    with it, `count` the number of sequences that pass through it, `weight` the tokens of it and everything below.
    """

    tokens: tuple[int, ...]
    start: int
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    count: int = 0
    weight: int = 0

    @property
    def stop(self) -> int:
        """Position after its last token."""
        return self.start + len(self.tokens)

    def path(self) -> list[Node]:
        """Nodes from below the root to this one."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def walk(self) -> Iterator[Node]:
        """This node and everything below it, depth first."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of leading tokens that `a` and `b` share."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def build(sequences: Sequence[Sequence[int]]) -> tuple[Node, list[Node]]:
    """The tree over `sequences`: its root (no tokens) and, for each sequence, the node it ends with."""
    root = Node(tokens=(), start=0)
    ends: list[Node] = [root] * len(sequences)
    rows = [tuple(s) for s in sequences]
    tip = root
    before: tuple[int, ...] = ()
    for index in sorted(range(len(rows)), key=rows.__getitem__):
        row = rows[index]
        shared = common_length(before, row)
        while tip.start >= shared and tip.parent is not None:
            tip = tip.parent
        if tip.stop > shared:
            tip = _split(tip, shared, ends)
        if len(row) > shared:
            tip = _attach(tip, row[shared:])
        tip.ends.append(index)
        ends[index] = tip
        before = row
    _measure(root)
    return root, ends


def _attach(parent: Node, tokens: tuple[int, ...]) -> Node:
    node = Node(tokens=tokens, start=parent.stop, parent=parent)
    parent.children.append(node)
    return node


def _split(node: Node, position: int, ends: list[Node]) -> Node:
    """Cut `node` at an absolute position: it becomes the upper part, a new child takes the rest."""
    cut = position - node.start
    lower = Node(tokens=node.tokens[cut:], start=position, parent=node, children=node.children, ends=node.ends)
    for child in lower.children:
        child.parent = lower
    for index in lower.ends:
        ends[index] = lower
    node.tokens, node.children, node.ends = node.tokens[:cut], [lower], []
    return node


def _measure(root: Node) -> None:
    for node in reversed(list(root.walk())):
        node.count = len(node.ends) + sum(c.count for c in node.children)
        node.weight = len(node.tokens) + sum(c.weight for c in node.children)
