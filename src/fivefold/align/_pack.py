"""Packing without padding: sequences that share a prefix become one tree, and several trees one row.

Every token of a row is a node; a node's parent is the token before it. Sequences with a common start share its nodes:
the system prompt of a whole row, the prompt of a chosen and a rejected answer. A token attends to its ancestors and
itself, at the position of its depth, so every log-probability is what the sequence alone would give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Item:
    """One piece of training data: a prompt and its answers, as token ids.

    SFT has one answer, a preference pair two (chosen, rejected). Only answer tokens are trained on. `group` names the
    kind of item for the record; `label` is for losses that take single answers marked desirable or not.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    group: str = ""
    label: bool = True

    @property
    def n_tokens(self) -> int:
        """Tokens computed for this item when nothing is shared with other items."""
        return len(self.prompt) + sum(len(a) - 1 for a in self.answers)


@dataclass(frozen=True)
class Row:
    """One packed row of T tokens.

    tokens, depth [T]: token ids and positions. attend [T, T]: True where row token i sees column token j.
    read [R]: the nodes whose next-token distribution is read; want [R]: the token wanted there; answers: for each
    item, for each of its answers, the slice of [R] that belongs to it.
    """

    tokens: Tensor
    depth: Tensor
    attend: Tensor
    read: Tensor
    want: Tensor
    answers: tuple[tuple[slice, ...], ...]


class _Tree:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parent: list[int] = []
        self.depth: list[int] = []
        self.child: dict[tuple[int, int], int] = {}

    def insert(self, tokens: Sequence[int], parent: int = -1) -> list[int]:
        """Nodes of `tokens` below `parent`, made where missing."""
        path = []
        for token in tokens:
            key = (parent, token)
            if key not in self.child:
                self.child[key] = len(self.tokens)
                self.tokens.append(token)
                self.parent.append(parent)
                self.depth.append(0 if parent < 0 else self.depth[parent] + 1)
            parent = self.child[key]
            path.append(parent)
        return path

    def attend(self) -> Tensor:
        mask = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                mask[node] |= mask[parent]
        return mask


def pack(items: Sequence[Item]) -> Row:
    """One row that holds all `items`."""
    tree, read, want = _Tree(), list[int](), list[int]()
    slices: list[tuple[slice, ...]] = []
    for item in items:
        prompt = tree.insert(item.prompt)
        of_item = []
        for answer in item.answers:
            path = tree.insert(answer[:-1], prompt[-1])
            of_item.append(slice(len(read), len(read) + len(answer)))
            read += [prompt[-1], *path]
            want += answer
        slices.append(tuple(of_item))
    return Row(
        tokens=torch.tensor(tree.tokens),
        depth=torch.tensor(tree.depth),
        attend=tree.attend(),
        read=torch.tensor(read),
        want=torch.tensor(want),
        answers=tuple(slices),
    )


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
