"""What a suffix search minimises: the cross-entropy of the wanted opening, plus penalties for being seen by a probe.

    loss(suffix) = mean over goal tokens of -log p(token | everything before)  +  sum of penalties

All of it comes from one forward, for the gradient as for the candidates. Logits and penalties are taken in float32;
the forward runs in the module's own dtype (use float32: bfloat16 changes which candidate wins).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fivefold.redteam._gcg_forward import Forward, Group, Packed, Plain, Reading, Stem
from fivefold.redteam._gcg_penalty import DirectionPenalty
from fivefold.redteam._gcg_prompt import Ids, SuffixPrompt
from fivefold.runtime._forward import Engine
from fivefold.runtime._structure import decoder_layers
from fivefold.runtime.crew import even


@dataclass(frozen=True, eq=False)
class Losses:
    """Of N suffixes: `total` = `goal` + `penalty` [N], each probe's logit [N, number of penalties], and whether every
    goal token was the most likely one [N]."""

    total: Tensor
    goal: Tensor
    penalty: Tensor
    probes: Tensor
    matched: Tensor


@dataclass(frozen=True, eq=False)
class Near:
    """What is computed at a suffix and need not be computed again for suffixes near it."""

    suffix: Ids
    stem: Stem


@dataclass(frozen=True, eq=False)
class Point(Near):
    """The objective at one suffix of S tokens: its losses, the gradient [S, V] by the one-hot tokens, and what was
    computed on the way."""

    losses: Losses
    gradient: Tensor


class Objective:
    """The loss of suffixes in one prompt. `tokens` counts the tokens that have gone through the model.

    With `use_prefix_cache` the template and the request are computed once, and a candidate from its first new token
    on; without it every sequence is computed whole (the reference that tests compare with). `batch_tokens` is the size
    of a forward over candidates.
    """

    def __init__(
        self,
        prompt: SuffixPrompt,
        *,
        penalties: Sequence[DirectionPenalty] = (),
        use_prefix_cache: bool = True,
        batch_tokens: int | None = None,
    ) -> None:
        self.prompt, self.use_prefix_cache = prompt, use_prefix_cache
        self.module: Any = prompt.model.module
        self.embedding: Any = self.module.get_input_embeddings()
        self.device: torch.device = self.embedding.weight.device
        self.limit = batch_tokens or (1024 if self.device.type == "cpu" else 16384)
        layers = decoder_layers(self.module)
        for penalty in penalties:
            penalty.check(len(layers), prompt.model.d_model)
        self.probes = [_Probe(p, self.device) for p in penalties]
        self.n_goal, self.n_prompt = len(prompt.goal), len(prompt.before) + len(prompt.start) + len(prompt.after)
        self.tokens = 0
        watched = tuple(sorted({p.layer for p in penalties}))
        self.plain = Plain(self.module, layers, watched, self.n_goal)
        self.forward = self._forward(watched)
        self.root = self._root() if use_prefix_cache else Stem()
        self._table: Tensor | None = None

    def _forward(self, watched: tuple[int, ...]) -> Forward:
        engine = getattr(self.prompt.model, "engine", None)
        if self.use_prefix_cache and isinstance(engine, Engine) and engine.packed:
            return Packed(engine, watched, self.n_goal)
        return self.plain

    @torch.no_grad()
    def _root(self) -> Stem:
        """The template and the request, computed once."""
        before = self._ids(self.prompt.before)
        reading, cache = self.plain.forward(Stem(), keep=True, input_ids=before[None])
        self.tokens += len(before)
        return self.plain.stem(cache, Stem(), reading, len(before))

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(list(ids), dtype=torch.long, device=self.device)

    def _row(self, suffix: Ids) -> Ids:
        """All that is fed: the last goal token is only predicted."""
        return (*self.prompt.before, *suffix, *self.prompt.after, *self.prompt.goal[:-1])

    @property
    def table(self) -> Tensor:
        """What the embedding gives for every token: [V, W] (its weight, unless the embedding scales or adapts it)."""
        if type(self.embedding) is nn.Embedding:
            return self.embedding.weight.detach()
        if self._table is None:
            with torch.no_grad():
                self._table = self.embedding(torch.arange(self.embedding.weight.shape[0], device=self.device))
        return self._table

    def at(self, suffix: Ids) -> Point:
        """Losses of `suffix` and their gradient by its one-hot tokens.

        The one-hot product itself is never formed: with e = onehot @ table, the gradient is (d loss / d e) @ tableᵀ.
        """
        row, root = self._row(suffix), self.root
        first = len(self.prompt.before) - root.length
        with torch.enable_grad():
            fed = self.embedding(self._ids(row[root.length :])).detach()
            slot = fed[first : first + len(suffix)].clone().requires_grad_()
            inputs = torch.cat([fed[:first], slot, fed[first + len(suffix) :]])[None]
            reading, cache = self.plain.forward(root, keep=self.use_prefix_cache, inputs_embeds=inputs)
            losses = self._losses(reading, root.length, root)
            (slope,) = torch.autograd.grad(losses.total.sum(), slot)
        self.tokens += len(row) - root.length
        stem = Stem()
        if self.use_prefix_cache:
            stem = self.plain.stem(cache, root, reading, len(self.prompt.before) + len(suffix))
        return Point(suffix, stem, _detached(losses), slope @ self.table.T.to(slope.dtype))

    @torch.no_grad()
    def near(self, suffix: Ids) -> Near:
        """What suffixes near `suffix` share with it; no loss and no gradient."""
        if not self.use_prefix_cache:
            return Near(suffix, Stem())
        reading, cache = self.plain.forward(self.root, keep=True, input_ids=self._ids(suffix)[None])
        self.tokens += len(suffix)
        return Near(suffix, self.plain.stem(cache, self.root, reading, len(self.prompt.before) + len(suffix)))

    @torch.no_grad()
    def losses(self, candidates: Sequence[Ids], near: Near | None = None) -> Losses:
        """Losses of `candidates`, in their order. What they share with the suffix of `near` is not computed again."""
        rows = [self._row(c) for c in candidates]
        starts = [self._start(c, near) for c in candidates]
        stem = self.root if near is None else near.stem
        limit = even(sum(len(rows[0]) - start for start in starts), self.limit, self.forward.workers)
        chunks = list(self.forward.plan(starts, len(rows[0]), limit))

        def read(groups: Sequence[Group]) -> list[Losses]:
            readings = self.forward.read(groups, rows, stem)
            return [self._losses(r, group.start, stem) for group, r in zip(groups, readings, strict=True)]

        found = self.forward.all([partial(read, groups) for groups in chunks])
        parts = [losses for of_chunk in found for losses in of_chunk]
        members = [m for groups in chunks for group in groups for m in group.members]
        self.tokens += sum(len(g.members) * (len(rows[0]) - g.start) for groups in chunks for g in groups)
        order = torch.tensor(members, device=self.device).argsort()
        return Losses(*(torch.cat(column)[order] for column in zip(*map(_fields, parts), strict=True)))

    def _start(self, candidate: Ids, near: Near | None) -> int:
        """Position of the candidate's first token that is not computed yet."""
        if near is None or not self.use_prefix_cache:
            return self.root.length
        differs = (i for i, (a, b) in enumerate(zip(candidate, near.suffix, strict=True)) if a != b)
        return self.root.length + next(differs, len(candidate))

    def _losses(self, reading: Reading, start: int, stem: Stem) -> Losses:
        """Losses of a group whose computed tokens begin at position `start`."""
        goal = self._ids(self.prompt.goal)
        n, t, size = reading.logits.shape
        nats = F.cross_entropy(reading.logits.reshape(n * t, size), goal.repeat(n), reduction="none")
        cost = nats.view(n, t).mean(dim=1)
        matched = (reading.logits.argmax(dim=-1) == goal).all(dim=1)
        logits, penalty = self._penalties(reading.streams, start, stem, n)
        return Losses(cost + penalty, cost, penalty, logits, matched)

    def _penalties(self, streams: Mapping[int, Tensor], start: int, stem: Stem, n: int) -> tuple[Tensor, Tensor]:
        """Logits [n, number of probes] and the sum of their penalties [n]."""
        if not self.probes:
            return torch.zeros(n, 0, device=self.device), torch.zeros(n, device=self.device)
        read = []
        for probe in self.probes:
            layer = probe.penalty.layer
            computed = streams[layer][:, : self.n_prompt - start]
            before = stem.streams[layer][:start] if start else None
            read.append(probe.logit(computed, before, self.n_prompt))
        logits = torch.stack(read, dim=1)
        costs = [p.penalty.weight * F.relu(z - p.penalty.margin) for p, z in zip(self.probes, read, strict=True)]
        return logits, torch.stack(costs).sum(dim=0)


class _Probe:
    """A penalty's probe as tensors: logit = x · weight + bias, the standardisation folded in."""

    def __init__(self, penalty: DirectionPenalty, device: torch.device) -> None:
        self.penalty = penalty
        vector, mean, scale = (torch.tensor(v, dtype=torch.float64) for v in penalty.arrays())
        weight = vector / scale
        self.bias = float(penalty.bias - mean @ weight)
        self.weight = weight.to(device, torch.float32)

    def logit(self, computed: Tensor, before: Tensor | None, n_prompt: int) -> Tensor:
        """Logits [n] from the prompt tokens that were computed [n, t, W] and those before them [c, W]."""
        if self.penalty.position == "last":
            return computed[:, -1].float() @ self.weight + self.bias
        skip = 1 if before is None else 0
        total = computed[:, skip:].float().sum(dim=1)
        if before is not None:
            total = total + before[1:].float().sum(dim=0)
        return total / (n_prompt - 1) @ self.weight + self.bias


def joined(parts: Sequence[Losses]) -> Losses:
    """Losses of several sets of suffixes as those of one."""
    return Losses(*map(torch.cat, zip(*map(_fields, parts), strict=True)))


def _fields(losses: Losses) -> tuple[Tensor, ...]:
    return losses.total, losses.goal, losses.penalty, losses.probes, losses.matched


def _detached(losses: Losses) -> Losses:
    return Losses(*(x.detach() for x in _fields(losses)))
