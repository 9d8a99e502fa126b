"""Packing without padding: sequences that share a prefix become one tree, and many trees one row.

A row starts with the tokens that all its prompts share (the system prompt), computed once where that pays. Each item hangs below
them as a block of its own: the rest of its prompt once, then its answers as branches. A token sees its ancestors and itself
at the position of its depth, so every log-probability is what its sequence alone would give, and attention costs
nothing for pairs of tokens in different blocks (`fivefold.runtime._attention`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fivefold.runtime._pieces import Piece, Pieces
from fivefold.runtime._plan import Block, Plan, Prefix


@dataclass(frozen=True, kw_only=True)
class Item:
    """One piece of training data: a prompt and its answers, as token ids.

    SFT has one answer, a preference pair two (chosen, rejected), an answer with a `label` its own and a mismatched one
    (`mismatched`). Only answer tokens are trained on. `group` names the kind of item for the record; items of one `twin`
    are trained on in one step where they fit (a harmful request and its look-alike: what they share cancels out).
    An answer may hold what others said, a tool's result or a user's reply: `learnt` then marks, for each answer, its
    tokens that the assistant wrote, and the others are read and never trained on.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    group: str = ""
    label: bool = True
    twin: str = ""
    learnt: tuple[tuple[bool, ...], ...] | None = None

    @property
    def n_learnt(self) -> int:
        """Answer tokens that are trained on."""
        return sum(len(a) for a in self.answers) if self.learnt is None else sum(map(sum, self.learnt))

    def only(self, which: int) -> Item:
        """The same prompt with one of the answers."""
        learnt = None if self.learnt is None else (self.learnt[which],)
        return replace(self, answers=(self.answers[which],), learnt=learnt)

    def marks(self, which: int) -> tuple[bool, ...]:
        """Which tokens of an answer are trained on."""
        return (True,) * len(self.answers[which]) if self.learnt is None else self.learnt[which]

    @property
    def n_tokens(self) -> int:
        """Tokens computed for this item when nothing is shared with other items."""
        return len(self.prompt) + sum(len(a) - 1 for a in self.answers)


@dataclass(frozen=True)
class Row:
    """One packed row of T tokens.

    tokens, depth [T]: token ids and positions. shared: how many of the first tokens every item starts with and are computed once.
    blocks: where each item's own tokens lie, with who sees whom among them ([t, t] bool; None is plain causal order).
    read [R]: the tokens whose next-token distribution is read; want [R]: the token wanted there; answers: for each
    item, for each of its answers, the slice of [R] that belongs to it. pieces: the same as the blocks, cut where trees
    branch, where that saves work.
    """

    tokens: Tensor
    depth: Tensor
    shared: int
    blocks: tuple[tuple[int, int, Tensor | None], ...]
    read: Tensor
    want: Tensor
    answers: tuple[tuple[slice, ...], ...]
    pieces: Pieces | None = None

    def plan(self) -> Plan:
        """A fresh plan of who sees whom; one serves one forward pass."""
        if not self.shared:
            return Plan([self._block(*block, None) for block in self.blocks], pieces=self.pieces)
        prefix = Prefix(self.shared)
        shared = Block(0, self.shared, self.depth[: self.shared], store=prefix)
        return Plan([shared, *(self._block(*block, prefix) for block in self.blocks)], pieces=self.pieces)

    def _block(self, start: int, stop: int, within: Tensor | None, prefix: Prefix | None) -> Block:
        return Block(start, stop, self.depth[start:stop], prefix=prefix, within=within)


class _Tree:
    """Tokens of one item below the shared prefix, each with its parent (-1 for the first)."""

    def __init__(self, depth: int) -> None:
        self.first = depth
        self.tokens: list[int] = []
        self.parent: list[int] = []
        self.depth: list[int] = []
        self._child: dict[tuple[int, int], int] = {}

    def insert(self, tokens: Sequence[int], parent: int = -1) -> list[int]:
        """Nodes of `tokens` below `parent`, made where missing."""
        path = []
        for token in tokens:
            key = (parent, token)
            if key not in self._child:
                self._child[key] = len(self.tokens)
                self.tokens.append(token)
                self.parent.append(parent)
                self.depth.append(self.first if parent < 0 else self.depth[parent] + 1)
            parent = self._child[key]
            path.append(parent)
        return path

    def within(self) -> Tensor | None:
        """Who sees whom, or None for a single chain."""
        if self.parent == list(range(-1, len(self.parent) - 1)):
            return None
        mask = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                mask[node] |= mask[parent]
        return mask

    def runs(self) -> list[tuple[int, int, int]]:
        """The chains between branchings: (first node, end, the node before the first)."""
        children = [0] * len(self.parent)
        for parent in self.parent[1:]:
            children[parent] += 1
        begins = [i for i, p in enumerate(self.parent) if i == 0 or p != i - 1 or children[p] > 1]
        return [(i, end, self.parent[i]) for i, end in zip(begins, [*begins[1:], len(self.parent)], strict=True)]

    def pieces(self, at: int) -> list[Piece]:
        """What each run sees within the tree, whose first node is row `at`."""
        runs = self.runs()
        above: dict[int, list[tuple[int, int]]] = {}
        found = []
        for start, stop, parent in runs:
            before = next(r for r in runs if r[0] <= parent < r[1]) if parent >= 0 else None
            seen = [] if before is None else [*above[before[0]], (before[0], parent + 1)]
            above[start] = seen
            found += [Piece(at + start, at + stop, at + a, at + b) for a, b in [*seen, (start, stop)]]
        return found


PIECE_SCORES = 5000
"""What a piece costs beside its scores, in scores a head: measured forward and backward on a CPU, where pairs of answers of 50
tokens behind a prompt of 150 take as long cut as whole."""


def _in_pieces(trees: Sequence[tuple[int, _Tree]], shared: int, rows: int) -> Pieces | None:
    """A row of `rows` tokens cut into pieces, None where whole blocks under masks take less."""
    parts = [piece for at, tree in trees for piece in tree.pieces(at)]
    if shared:
        parts += [Piece(0, shared, 0, shared), Piece(shared, rows, 0, shared)]
    parts = _joined(parts)
    whole = sum(len(tree.tokens) * (shared + len(tree.tokens)) for _, tree in trees) + shared**2
    if sum(piece.scores + PIECE_SCORES for piece in parts) >= whole + PIECE_SCORES * (len(trees) + bool(shared)):
        return None
    return Pieces(tuple(parts), max(max(tree.depth) for _, tree in trees))


def _joined(parts: Sequence[Piece]) -> list[Piece]:
    """Neighbours that see the same rows beside themselves, as one; every row's own piece stands before these."""
    joined = [piece for piece in parts if piece.own]
    for piece in sorted((p for p in parts if not p.own), key=lambda p: (p.first, p.last, p.start)):
        last = joined[-1]
        if (last.first, last.last, last.stop) == (piece.first, piece.last, piece.start) and not last.own:
            joined[-1] = replace(last, stop=piece.stop)
        else:
            joined.append(piece)
    return joined


SHARED = 1 / 25
"""A start that is computed once costs the whole row a pass of attention, about what this part of its tokens costs to compute;
where it saves less, each item computes it (three tokens that all prompts begin with: 3 % of a DPO step)."""


def _start_to_share(items: Sequence[Item]) -> int:
    """How many tokens at the start of all prompts are computed once."""
    if len(items) == 1:
        return 0
    common = common_start([item.prompt[:-1] for item in items])
    return common if common * (len(items) - 1) >= SHARED * sum(item.n_tokens for item in items) else 0


def common_start(sequences: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all sequences share."""
    first = sequences[0]
    return next((i for i in range(len(first)) if any(len(s) <= i or s[i] != first[i] for s in sequences)), len(first))


def pack(items: Sequence[Item]) -> Row:
    """One row that holds all `items`."""
    first = items[0].prompt
    shared = _start_to_share(items)
    tokens, depth = list(first[:shared]), list(range(shared))
    read, want = list[int](), list[int]()
    blocks, answers, trees = [], [], []
    for item in items:
        start, tree, of_item = len(tokens), _Tree(shared), []
        prompt = tree.insert(item.prompt[shared:])
        for which, answer in enumerate(item.answers):
            path = [prompt[-1], *tree.insert(answer[:-1], prompt[-1])]
            begun = len(read)
            for node, token, learnt in zip(path, answer, item.marks(which), strict=True):
                if learnt:
                    read.append(start + node)
                    want.append(token)
            of_item.append(slice(begun, len(read)))
        tokens += tree.tokens
        depth += tree.depth
        blocks.append((start, len(tokens), tree.within()))
        trees.append((start, tree))
        answers.append(tuple(of_item))
    return Row(
        tokens=torch.tensor(tokens),
        depth=torch.tensor(depth),
        shared=shared,
        blocks=tuple(blocks),
        read=torch.tensor(read),
        want=torch.tensor(want),
        answers=tuple(answers),
        pieces=_in_pieces(trees, shared, len(tokens)),
    )


def mismatched(items: Sequence[Item]) -> list[Item]:
    """Items of one answer, each with the next item's answer beside its own: what KTO estimates its KL term from."""
    following = [*items[1:], *items[:1]]
    return [_beside(item, other) for item, other in zip(items, following, strict=True)]


def _beside(item: Item, other: Item) -> Item:
    learnt = None if item.learnt is None and other.learnt is None else (item.marks(0), other.marks(0))
    return replace(item, answers=(*item.answers, other.answers[0]), learnt=learnt)


def even_rows(items: Sequence[Item], limit: int, workers: int) -> list[list[int]]:
    """Split items into rows of about equal tokens, as many for each of `workers`, and of at most about `limit` tokens; indices
    into `items`, the longest item first to the row that has least. For one worker they are those of `rows_of`."""
    if workers == 1:
        return list(rows_of(items, limit))
    total = sum(item.n_tokens for item in items)
    n = max(1, min(len(items), workers * -(-total // (workers * limit))))
    rows: list[list[int]] = [[] for _ in range(n)]
    load = [0] * n
    for i in sorted(range(len(items)), key=lambda i: -items[i].n_tokens):
        to = load.index(min(load))
        rows[to].append(i)
        load[to] += items[i].n_tokens
    return rows if items else []


def rows_of(items: Sequence[Item], limit: int) -> Iterator[list[int]]:
    """Split items into rows of at most `limit` tokens, first fit by falling length; yields indices into `items`.

    The limit counts tokens before sharing, so a row may come out shorter; an item longer than the limit gets a row of
    its own.
    """
    order = sorted(range(len(items)), key=lambda i: -items[i].n_tokens)
    rows: list[list[int]] = []
    room: list[int] = []
    for i in order:
        n = items[i].n_tokens
        fit = next((r for r, left in enumerate(room) if n <= left), None)
        if fit is None:
            rows.append([i])
            room.append(limit - n)
        else:
            rows[fit].append(i)
            room[fit] -= n
    yield from rows
