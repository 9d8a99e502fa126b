"""Log-probabilities of continuations over a prefix tree: what pairs share is computed once, the head runs only where a
continuation is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fivefold.runtime._forward import Engine
from fivefold.runtime._packing import Packer, Row
from fivefold.runtime._tree import Node, build


@dataclass(frozen=True, kw_only=True)
class TokenPair:
    """A context and a continuation as token ids; both hold at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: everything but the last token, which is only predicted."""
        return (*self.context, *self.continuation)[:-1]


def windows(tokens: Sequence[int], first: int, length: int) -> list[TokenPair]:
    """Every token of a text once as continuation, in windows that give the model `length` tokens to read.

    The first window starts after the token `first`; each later one predicts up to `length` tokens after one token of
    context, and the last fills what is left of its window with context. These are the windows of lm-eval's
    `get_rolling_token_windows` with `context_len` 1.
    """
    ids = tuple(tokens)
    made = [TokenPair(context=(first,), continuation=ids[:length])]
    for done in range(length, len(ids), length):
        stop = min(done + length, len(ids))
        made.append(TokenPair(context=ids[stop - length - 1 : done], continuation=ids[done:stop]))
    return made


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Log-probability (nats) of each continuation token and whether each was the most likely one."""

    log_probs: tuple[float, ...]
    greedy: bool


def score(engine: Engine, pairs: Sequence[TokenPair]) -> list[Scores]:
    """Scores of `pairs`, in order. The caller holds the engine's lock."""
    if not engine.packed:
        return [_score_plain(engine, pair) for pair in pairs]
    return _Scorer(engine, pairs).run()


def _score_plain(engine: Engine, pair: TokenPair) -> Scores:
    first = len(pair.context) - 1
    logits = engine.plain(pair.inputs, range(first, len(pair.inputs)))
    targets = torch.tensor(pair.continuation, device=logits.device)
    chosen = logits.gather(1, targets[:, None])[:, 0] - torch.logsumexp(logits, dim=1)
    return Scores(log_probs=tuple(chosen.tolist()), greedy=bool((logits.argmax(dim=1) == targets).all()))


class _Scorer:
    """Reads every wanted (node, offset) once and hands the result to each pair that shares it."""

    def __init__(self, engine: Engine, pairs: Sequence[TokenPair]) -> None:
        self.engine, self.pairs = engine, pairs
        self.root, ends = build([p.inputs for p in pairs])
        self.wanted: dict[Node, dict[int, list[tuple[int, int]]]] = {}
        for index, end in enumerate(ends):
            self._want(index, end)
        self.log_probs = [[0.0] * len(p.continuation) for p in pairs]
        self.missed: set[int] = set()

    def _want(self, index: int, end: Node) -> None:
        """Note the rows that predict the continuation tokens of pair `index`, from its last node upwards."""
        first = len(self.pairs[index].context) - 1
        node: Node | None = end
        while node is not None and node.stop > first:
            for position in range(max(first, node.start), node.stop):
                self.wanted.setdefault(node, {}).setdefault(position - node.start, []).append((index, position - first))
            node = node.parent

    def run(self) -> list[Scores]:
        with self.engine.crew() as crew:
            Packer(self._compute, self.engine.pack_tokens, crew=crew).walk(self.root)
        return [Scores(log_probs=tuple(lp), greedy=i not in self.missed) for i, lp in enumerate(self.log_probs)]

    def _compute(self, row: Row) -> None:
        read: list[int] = []
        asked: list[tuple[int, int, int]] = []
        for node, at in row.nodes:
            for offset, readers in self.wanted.get(node, {}).items():
                asked.extend((len(read), pair, token) for pair, token in readers)
                read.append(at + offset)
        if asked:
            self._take(self.engine.forward(row.ids, row.positions, row.plan, read), asked)
        else:
            self.engine.store(row.ids, row.positions, row.plan)

    def _take(self, logits: Tensor, asked: list[tuple[int, int, int]]) -> None:
        """Read the log-probabilities off float32 logits [R, V], which are used up: each pass over them costs as much as a
        layer's norms."""
        rows = torch.tensor([a[0] for a in asked], device=logits.device)
        targets = torch.tensor([self.pairs[p].continuation[t] for _, p, t in asked], device=logits.device)
        best, chosen = logits.amax(dim=1), logits[rows, targets]
        hits = chosen == best[rows]
        hits[hits.clone()] = logits[rows[hits]].argmax(dim=1) == targets[hits]  # of equals, the first counts
        norm = logits.sub_(best[:, None]).exp_().sum(dim=1).log_().add_(best)
        values = (chosen - norm[rows]).tolist()
        for (_, pair, token), value, hit in zip(asked, values, hits.tolist(), strict=True):
            self.log_probs[pair][token] = value
            if not hit:
                self.missed.add(pair)
