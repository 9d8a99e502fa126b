"""Generation with continuous batching: requests join and leave the running batch, and share the prompts they share.

All prompts are laid out as a prefix tree (without each prompt's last token, which a request always computes itself to
get its first logits). Shared nodes are computed once. In each step the row holds one new token for every slot that is
decoding and the whole remaining prompt of those that join. Where several requests decode behind the same prefix, its
keys and values are read once for all of them. Requests that arrive while the batch runs join it as slots come free.
With several workers the requests are dealt to as many batches, which run side by side.

Greedy decoding takes the most likely token. Sampling inverts the cumulative distribution at uniforms drawn from the
request's own seed before the first step, so what else is in the batch cannot change them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from fivefold.runtime._forward import Engine
from fivefold.runtime._plan import Block, Plan, Prefix, Slots
from fivefold.runtime._prepacked import prepacked
from fivefold.runtime._sample import pick
from fivefold.runtime._tree import build

SHARE_TOKENS = 8
"""A shared node shorter than this is computed with each request: storing it would cost more than it saves."""

GROUP = 4
"""From this many requests on, a prefix is kept apart and read once for all; for fewer it is copied into their slots."""

CHUNK = 2048
"""Longest run of prompt tokens that is computed in one row."""

APIECE = 16
"""A batch of its own for a worker takes at least so many requests: matrix products of fewer rows are slow."""

FEW_JOBS, FEW_STEPS = 8, 8
"""With fewer requests, or steps, prepacking the weights gains nothing or takes longer than it saves."""


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
    heard: Callable[[list[int]], None] | None = None
    """Told all tokens so far after each one that does not end the answer."""
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
        finished = self.ended or len(self.tokens) >= self.max_new_tokens
        if self.heard is not None and not finished:
            self.heard(self.tokens)
        return finished


More: TypeAlias = Callable[[], "Sequence[Job]"]
"""Asked between steps for requests that have arrived since."""


def run(
    engine: Engine, jobs: Sequence[Job], eos: frozenset[int], done: Callable[[Job], None], more: More | None = None
) -> None:
    """Work off `jobs` and what `more` brings; `done` is called with each as it finishes, `error` set if it failed.

    The caller holds the lock.
    """
    if engine.packed:
        _run_batches(engine, jobs, eos, done, more)
        return
    waiting = deque(jobs)
    while waiting:
        job = waiting.popleft()
        _run_plain(engine, job, eos)
        done(job)
        waiting.extend(more() if more else ())


def _run_batches(
    engine: Engine, jobs: Sequence[Job], eos: frozenset[int], done: Callable[[Job], None], more: More | None
) -> None:
    """The jobs in the order of their prefix tree, cut into one part a worker; what arrives goes to who has least."""
    workers = max(1, min(engine.workers, len(jobs) // APIECE))
    ordered = [jobs[i] for node in build([job.prompt[:-1] for job in jobs])[0].walk() for i in node.ends]
    parts = [ordered[i * len(jobs) // workers : (i + 1) * len(jobs) // workers] for i in range(workers)]
    talking = threading.Lock()

    def told(job: Job) -> None:
        with talking:
            done(job)

    arrivals = None if more is None else _Arrivals(more, workers)
    slots, room = -(-engine.slots // workers), engine.cache_bytes // workers
    many = more is not None or (len(jobs) >= FEW_JOBS and max(job.max_new_tokens for job in jobs) >= FEW_STEPS)
    with prepacked(engine.module) if many else nullcontext(), engine.crew(workers) as crew:
        for i, part in enumerate(parts):
            batch = _Batch(engine, eos, told, None if arrivals is None else partial(arrivals.take, i))
            crew.put(partial(batch.run, part, slots if more else min(engine.slots, len(part)), room))


class _Arrivals:
    """Deals what arrives to the batches that still run, each request to the one that was given least."""

    def __init__(self, more: More, batches: int) -> None:
        self._more, self._lock = more, threading.Lock()
        self._given: dict[int, int] = dict.fromkeys(range(batches), 0)
        self._boxes: dict[int, list[Job]] = {i: [] for i in range(batches)}

    def take(self, batch: int, idle: bool) -> list[Job]:
        """What has arrived for `batch`. One that is idle and gets nothing has ended: nothing more is given to it."""
        with self._lock:
            for job in self._more():
                to = min(self._given, key=self._given.__getitem__)
                self._given[to] += 1
                self._boxes[to].append(job)
            mine, self._boxes[batch] = self._boxes[batch], []
            if idle and not mine:
                del self._given[batch]
            return mine


@dataclass(frozen=True)
class _Stored:
    """A prefix and how many requests were known to share it when it was computed."""

    prefix: Prefix
    users: int


def _run_plain(engine: Engine, job: Job, eos: frozenset[int]) -> None:
    """One request by ordinary forwards without a cache: slow, and right for every architecture."""
    while True:
        ids = [*job.prompt, *job.tokens]
        try:
            token = pick(engine.plain(ids, [len(ids) - 1]), [job])[0]
        except Exception as error:
            job.error = f"{type(error).__name__}: {error}"
            return
        if job.push(token, eos):
            return


class _Batch:
    """The running batch: who waits, who decodes in which slot, and the prefixes that are stored for them."""

    def __init__(
        self,
        engine: Engine,
        eos: frozenset[int],
        done: Callable[[Job], None],
        more: Callable[[bool], Sequence[Job]] | None,
    ) -> None:
        self.engine, self.eos, self.done, self.more = engine, eos, done, more
        self.waiting: list[Job] = []
        self.shares: dict[int, list[tuple[int, int]]] = {}
        self.stored: dict[tuple[int, ...], _Stored] = {}
        self.active: list[Job] = []
        self.behind: list[Prefix | None] = []

    def run(self, jobs: Sequence[Job], slots: int, room: int) -> None:
        """Work off `jobs` in up to `slots` slots whose keys and values take up to `room` bytes."""
        self.slots = self._make_slots(jobs, slots, room)
        self._wait(jobs)
        while self.waiting or self.active:
            joining: list[Job] = []
            try:
                logits = self._step(joining)
            except Exception as error:
                self._fail([*self.active, *joining], f"{type(error).__name__}: {error}")
            else:
                self.active.extend(joining)
                self._advance(logits)
            if self.more is not None and len(self.active) < len(self.slots.lengths):
                self._wait(self.more(not (self.waiting or self.active)))

    def _make_slots(self, jobs: Sequence[Job], slots: int, room: int) -> Slots:
        longest = max((len(j.prompt) + j.max_new_tokens for j in jobs), default=1)
        n = max(1, min(slots, room // max(1, longest * self.engine.token_bytes())))
        zeros = torch.zeros(n, dtype=torch.long, device=self.engine.device)
        return Slots(capacity=0, lengths=zeros, offsets=zeros.clone())

    def _wait(self, jobs: Sequence[Job]) -> None:
        """Queue `jobs` in the order of the prefix tree over all who wait, so that those who share run together.

        `shares` notes for each the lengths at which its prompt is shared, and by how many.
        """
        if not jobs:
            return
        self.waiting.extend(jobs)
        root, ends = build([job.prompt[:-1] for job in self.waiting])
        order = {id(node): at for at, node in enumerate(root.walk())}
        end = {id(job): node for job, node in zip(self.waiting, ends, strict=True)}
        self.shares = {key: [(n.stop, n.count) for n in node.path() if n.count > 1] for key, node in end.items()}
        self.waiting.sort(key=lambda job: order[id(end[id(job)])], reverse=True)

    def _fail(self, jobs: Sequence[Job], why: str) -> None:
        """An error of the whole step belongs to everyone who was in it; those who wait go on."""
        self.active, self.behind = [], []
        for job in jobs:
            job.error = why
            self.done(job)

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
        return max((len(key) for key in self.stored if job.prompt[: len(key)] == key), default=0)

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
        for stop, users in self._boundaries(job):
            known = deepest.length if deepest else 0
            entry = self.stored.get(job.prompt[:stop])
            if entry is not None:
                job.shared += stop - known
            elif stop - known >= SHARE_TOKENS:
                entry = self._store(job, stop, deepest, users)
            else:
                continue
            deepest = entry.prefix
            apart = deepest if max(users, entry.users) >= GROUP else apart
        return self._extend(job, len(job.prompt), deepest, leave=CHUNK), apart

    def _store(self, job: Job, stop: int, before: Prefix | None, users: int) -> _Stored:
        self._forget()
        prefix = self._extend(job, stop, before)
        assert prefix is not None
        self.stored[job.prompt[:stop]] = _Stored(prefix, users)
        return self.stored[job.prompt[:stop]]

    def _boundaries(self, job: Job) -> list[tuple[int, int]]:
        """Lengths at which this prompt may be shared, with how many share it: in the tree, or stored already."""
        found = dict(self.shares.get(id(job), ()))
        for key in self.stored:
            if len(key) < len(job.prompt) and job.prompt[: len(key)] == key:
                found.setdefault(len(key), 1)
        return sorted(found.items())

    def _extend(self, job: Job, stop: int, prefix: Prefix | None, leave: int = 0) -> Prefix | None:
        """Compute a prompt after `prefix` in chunks until at most `leave` tokens before `stop` are left."""
        known = prefix.length if prefix else 0
        while stop - known > leave:
            known = min(known + CHUNK, stop)
            prefix = self._compute(job.prompt[prefix.length if prefix else 0 : known], prefix)
        return prefix

    def _forget(self) -> None:
        """Drop stored prefixes that nobody who waits begins with; those in use live on with the slots behind them."""
        for key in list(self.stored):
            if not any(job.prompt[: len(key)] == key for job in self.waiting):
                del self.stored[key]

    def _compute(self, tokens: Sequence[int], prefix: Prefix | None) -> Prefix:
        known = prefix.length if prefix else 0
        positions = range(known, known + len(tokens))
        stored = Prefix(positions.stop)
        block = Block(0, len(tokens), torch.tensor(list(positions)), prefix=prefix, store=stored)
        self.engine.store(tokens, positions, Plan([block]))
        return stored

    def _groups(self, n: int) -> list[tuple[Prefix, Tensor | slice]]:
        members: dict[int, tuple[Prefix, list[int]]] = {}
        for slot, prefix in enumerate(self.behind[:n]):
            if prefix is not None:
                members.setdefault(id(prefix), (prefix, []))[1].append(slot)
        return [(prefix, self._places(slots)) for prefix, slots in members.values()]

    def _places(self, slots: list[int]) -> Tensor | slice:
        """Slots in rising order: as a slice where they are neighbours, which is read and written in place."""
        if slots[-1] - slots[0] + 1 == len(slots):
            return slice(slots[0], slots[-1] + 1)
        return torch.tensor(slots, device=self.slots.lengths.device)

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
        self.done(job)
