"""Generation with continuous batching: requests join and leave the running batch, and share the prompts they share.

All prompts are laid out as a prefix tree (without each prompt's last token, which a request always computes itself to
get its first logits). Shared nodes are computed once. In each step the row holds one new token for every slot that is
decoding and the whole remaining prompt of those that join. Where several requests decode behind the same prefix, its
keys and values are read once for all of them.

Greedy decoding takes the most likely token. Sampling inverts the cumulative distribution at uniforms drawn from the
request's own seed before the first step, so what else is in the batch cannot change them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fivefold.runtime._attention import Block, Plan, Prefix, Slots
from fivefold.runtime._forward import Engine
from fivefold.runtime._sample import pick
from fivefold.runtime._tree import Node, build

SHARE_TOKENS = 8
"""A shared node shorter than this is computed with each request: storing it would cost more than it saves."""

GROUP = 4
"""From this many requests on, a prefix is kept apart and read once for all; for fewer it is copied into their slots."""

CHUNK = 2048
"""Longest run of prompt tokens that is computed in one row."""


@dataclass(eq=False)
class Job:
    """One request on its way: token ids of the prompt, limits, and what has been generated."""

    index: int
    prompt: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stopped: Callable[[list[int]], bool]
    tokens: list[int] = field(default_factory=list)
    shared: int = 0
    ended: bool = False
    error: str | None = None
    uniforms: Tensor | None = None

    def __post_init__(self) -> None:
        if self.temperature > 0:
            generator = torch.Generator().manual_seed(self.seed)
            self.uniforms = torch.rand(self.max_new_tokens, generator=generator, dtype=torch.float64)

    def push(self, token: int, eos: frozenset[int]) -> bool:
        """Take the next token; True when the request is finished."""
        self.tokens.append(token)
        self.ended = token in eos or self.stopped(self.tokens)
        return self.ended or len(self.tokens) >= self.max_new_tokens


def run(engine: Engine, jobs: Sequence[Job], eos: frozenset[int], done: Callable[[Job], None]) -> None:
    """Work off `jobs`; `done` is called with each as it finishes, `error` set if it failed.

    The caller holds the lock.
    """
    if engine.packed:
        _Batch(engine, jobs, eos, done).run()
        return
    for job in jobs:
        _run_plain(engine, job, eos)
        done(job)


def _run_plain(engine: Engine, job: Job, eos: frozenset[int]) -> None:
    """One request by ordinary forwards without a cache: slow, and right for every architecture."""
    try:
        while True:
            ids = [*job.prompt, *job.tokens]
            logits = engine.plain(ids, [len(ids) - 1])
            if job.push(pick(logits, [job])[0], eos):
                return
    except Exception as error:
        job.error = f"{type(error).__name__}: {error}"


class _Batch:
    """The running batch."""

    def __init__(self, engine: Engine, jobs: Sequence[Job], eos: frozenset[int], done: Callable[[Job], None]) -> None:
        self.engine, self.eos, self.done = engine, eos, done
        root, ends = build([job.prompt[:-1] for job in jobs])
        self.end = dict(zip((id(j) for j in jobs), ends, strict=True))
        order = {id(node): at for at, node in enumerate(root.walk())}
        self.waiting = sorted(jobs, key=lambda j: order[id(self.end[id(j)])], reverse=True)
        self.stored: dict[Node, Prefix] = {}
        self.left = {node: node.count for node in root.walk()}
        self.active: list[Job] = []
        self.behind: list[Prefix | None] = []
        self.slots = self._make_slots(jobs)

    def _make_slots(self, jobs: Sequence[Job]) -> Slots:
        longest = max((len(j.prompt) + j.max_new_tokens for j in jobs), default=1)
        fit = self.engine.cache_bytes // max(1, longest * self.engine.token_bytes())
        n = max(1, min(self.engine.slots, len(jobs), fit))
        zeros = torch.zeros(n, dtype=torch.long, device=self.engine.device)
        return Slots(capacity=0, lengths=zeros, offsets=zeros.clone())

    def run(self) -> None:
        while self.waiting or self.active:
            joining: list[Job] = []
            try:
                logits = self._step(joining)
            except Exception as error:
                self._fail([*self.active, *joining], f"{type(error).__name__}: {error}")
                continue
            self.active.extend(joining)
            self._advance(logits)

    def _fail(self, jobs: Sequence[Job], why: str) -> None:
        """An error of the whole step belongs to everyone who was in it; those who wait go on."""
        for job in jobs:
            job.error = why
            self._release(job)
            self.done(job)
        self.active, self.behind = [], []

    # -- one step --------------------------------------------------------------------------------------------------

    def _step(self, joining: list[Job]) -> Tensor:
        """Logits for everyone who decodes and everyone who joins."""
        n = len(self.active)
        ids = [job.tokens[-1] for job in self.active]
        positions = (self.slots.offsets[:n] + self.slots.lengths[:n]).tolist()
        blocks = self._admit(joining, ids, positions)
        longest = int(self.slots.lengths[:n].max()) + 1 if n else 0
        plan = Plan(blocks, n, self.slots, self._groups(n), longest)
        read = [*range(n), *(block.stop - 1 for block in blocks)]
        logits = self.engine.forward(ids, positions, plan, read)
        self.slots.lengths[:n] += 1
        return logits

    def _admit(self, joining: list[Job], ids: list[int], positions: list[int]) -> list[Block]:
        """Blocks for as many waiting requests as there are slots and room in the row."""
        blocks: list[Block] = []
        while self.waiting and len(self.active) + len(joining) < len(self.slots.lengths):
            job = self.waiting[-1]
            if blocks and len(ids) + len(job.prompt) - self._known(job) > self.engine.pack_tokens:
                break
            joining.append(self.waiting.pop())
            blocks.append(self._join(job, len(self.active) + len(joining) - 1, ids, positions))
        return blocks

    def _known(self, job: Job) -> int:
        """Prompt tokens that are already stored for this request."""
        return max((node.stop for node in self.end[id(job)].path() if node in self.stored), default=0)

    def _join(self, job: Job, slot: int, ids: list[int], positions: list[int]) -> Block:
        """Append the rest of a prompt to the row and give it a slot."""
        prefix, apart = self._prefixes(job)
        start, known = len(ids), prefix.length if prefix else 0
        ids.extend(job.prompt[known:])
        positions.extend(range(known, len(job.prompt)))
        offset = apart.length if apart else 0
        self.slots.offsets[slot] = offset
        self.slots.lengths[slot] = len(job.prompt) - offset
        need = len(job.prompt) - offset + job.max_new_tokens
        self.slots.capacity = max(self.slots.capacity, -(-need // 64) * 64)
        self.behind.append(apart)
        own = torch.tensor(positions[start:])
        return Block(start, len(ids), own, prefix=prefix, slot=slot, slot_from=offset)

    def _prefixes(self, job: Job) -> tuple[Prefix | None, Prefix | None]:
        """The deepest stored prefix of a prompt, and the one that stays apart from its slot."""
        deepest: Prefix | None = None
        apart: Prefix | None = None
        for node in self.end[id(job)].path():
            if node in self.stored:
                job.shared += node.stop - (deepest.length if deepest else 0)
            elif node.count > 1 and node.stop - (deepest.length if deepest else 0) >= SHARE_TOKENS:
                self.stored[node] = self._store(job, node, deepest)
            else:
                continue
            deepest = self.stored[node]
            apart = deepest if node.count >= GROUP else apart
        return self._lengthen(job, deepest), apart

    def _lengthen(self, job: Job, prefix: Prefix | None) -> Prefix | None:
        """Compute a very long prompt in chunks until what is left fits a row."""
        known = prefix.length if prefix else 0
        while len(job.prompt) - known > CHUNK:
            prefix = self._compute(job.prompt[known : known + CHUNK], prefix)
            known = prefix.length
        return prefix

    def _store(self, job: Job, node: Node, prefix: Prefix | None) -> Prefix:
        known = prefix.length if prefix else 0
        while node.stop - known > CHUNK:
            prefix = self._compute(job.prompt[known : known + CHUNK], prefix)
            known = prefix.length
        return self._compute(job.prompt[known : node.stop], prefix)

    def _compute(self, tokens: Sequence[int], prefix: Prefix | None) -> Prefix:
        known = prefix.length if prefix else 0
        positions = range(known, known + len(tokens))
        stored = Prefix(positions.stop)
        block = Block(0, len(tokens), torch.tensor(list(positions)), prefix=prefix, store=stored)
        self.engine.forward(tokens, positions, Plan([block]), [0])
        return stored

    def _groups(self, n: int) -> list[tuple[Prefix, Tensor]]:
        members: dict[int, tuple[Prefix, list[int]]] = {}
        for slot, prefix in enumerate(self.behind[:n]):
            if prefix is not None:
                members.setdefault(id(prefix), (prefix, []))[1].append(slot)
        return [(p, torch.tensor(s, device=self.slots.lengths.device)) for p, s in members.values()]

    # -- after a step ----------------------------------------------------------------------------------------------

    def _advance(self, logits: Tensor) -> None:
        finite = torch.isfinite(logits.amax(dim=1)).tolist()
        finished = []
        for slot, token in enumerate(pick(logits, self.active)):
            job = self.active[slot]
            if not finite[slot]:
                job.error = "the model gave logits that are not finite"
            if job.error or job.push(token, self.eos):
                finished.append(slot)
        for slot in reversed(finished):
            self._leave(slot)

    def _leave(self, slot: int) -> None:
        """Finish the job in `slot` and move the last one into its place, so that slots in use stay the first n."""
        job, last = self.active[slot], len(self.active) - 1
        if slot != last:
            length = int(self.slots.lengths[last])
            for store in (self.slots.keys, self.slots.values):
                for tensor in store.values():
                    tensor[slot, :, :length] = tensor[last, :, :length]
            self.slots.lengths[slot] = self.slots.lengths[last]
            self.slots.offsets[slot] = self.slots.offsets[last]
            self.active[slot], self.behind[slot] = self.active[last], self.behind[last]
        self.active.pop()
        self.behind.pop()
        self._release(job)
        self.done(job)

    def _release(self, job: Job) -> None:
        """Drop stored prefixes that nobody will need any more."""
        for node in self.end[id(job)].path():
            self.left[node] -= 1
            if self.left[node] == 0:
                self.stored.pop(node, None)
