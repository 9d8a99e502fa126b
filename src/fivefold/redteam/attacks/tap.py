"""TAP: a tree of rewritten requests; what has left the subject is pruned unasked, then the best branches grow on.

Defensive use: the same question as PAIR's, with a stronger searcher. Source: Mehrotra et al. 2023, "Tree of Attacks:
Jailbreaking Black-Box LLMs Automatically" (arXiv 2312.02119), algorithm 1: branch, prune what is off topic, query and
score, keep the best `width`.

Deviations: `queries` ends the tree early (the paper: branching 4, width 10, depth 10); scores are the campaign judge's on
the scale of 1 to 10; the attacker judges what is off topic where no evaluator is given; a verdict that cannot be read keeps
the branch, as in the authors' code; a level of which nothing is left is written again, twice at most in a row (the authors' code
asks two of the pruned prompts instead). Strategies and instructions are those of `pair`, and so are the fixed wrappers that
stand in without an attacker.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fivefold.redteam.attacks._dialogue import (
    RETRIES,
    Proposal,
    answer_of,
    instructed,
    nothing_sent,
    propose,
    score_of,
    send_fixed,
    send_written,
    tokens_of,
)
from fivefold.redteam.attacks._text import succeeded
from fivefold.redteam.attacks._words import words
from fivefold.redteam.attacks.pair import OPENING, STRATEGIES, Stream, feedback, fixed_prompts, open_stream
from fivefold.redteam.helpers import TEMPLATES, Helped, as_model, ask
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case, Taxonomy, Unscored


@dataclass(frozen=True, kw_only=True)
class Tap(Helped):
    """A tree that is `depth` deep; every leaf branches `branching` times, `width` leaves live on."""

    name: ClassVar[str] = "tap"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    taxonomy: ClassVar[Taxonomy] = attack_taxonomy("tap")
    stand_ins: ClassVar[int | None] = len(STRATEGIES)

    branching: int = 4
    width: int = 10
    depth: int = 10

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield every try, level by level, until one succeeds, the budget is spent, no branch could be written, or level after
        level all that was written had left the subject."""
        if self.attacker is None:
            yield from send_fixed(case, self.name, target, judge, budget, fixed_prompts(case), attacker=TEMPLATES)
            return
        leaves = [open_stream(case.prompt, STRATEGIES[0])]
        left, barren = budget.queries, 0
        for depth in range(self.depth):
            branches = [copy.deepcopy(leaf) for leaf in leaves for _ in range(self.branching)]
            proposals = self._write(branches, rng)
            for p in proposals:
                if p.failure is not None:
                    yield nothing_sent(case, self.name, p, self.wrote)
            written = [(b, p) for b, p in zip(branches, proposals, strict=True) if p.failure is None]
            if not written:
                return
            kept, pruning = self._on_topic(case, written)
            kept = kept[:left]
            if not kept:
                yield nothing_sent(case, self.name, _astray(written, pruning), self.wrote)
                barren += 1
                if barren > RETRIES:
                    return
                continue
            barren = 0
            notes = [{"depth": depth, "pruned": len(written) - len(kept)} for _ in kept]
            asked = [replace(p, tokens=p.tokens + pruning // len(kept)) for _, p in kept]
            attempts = send_written(case, self.name, target, judge, budget, asked, notes, self.wrote)
            yield from attempts
            left -= len(attempts)
            if left <= 0 or any(succeeded(a) for a in attempts):
                return
            leaves = self._best(case, kept, attempts) or leaves

    def _write(self, branches: Sequence[Stream], rng: random.Random) -> list[Proposal]:
        assert self.attacker is not None
        for i, branch in enumerate(branches):
            if not branch.exchanges:
                fresh = open_stream(branch.request, STRATEGIES[i % len(STRATEGIES)])
                branch.system, branch.strategy = fresh.system, fresh.strategy
        talks = [b.conversation() for b in branches]
        return propose(self.attacker, talks, rng, prompt_key="prompt", keys=("improvement",), prefill=OPENING)

    def _on_topic(
        self, case: Case, written: Sequence[tuple[Stream, Proposal]]
    ) -> tuple[list[tuple[Stream, Proposal]], int]:
        """The branches whose prompt still asks for the behaviour, and the tokens that finding out took."""
        reader = self.evaluator or self.attacker
        assert reader is not None
        texts = words("attacker")
        question = str(texts["on_topic_question"])
        talks = [
            instructed(texts["on_topic"], question.replace("{prompt}", p.prompt).replace("{request}", case.prompt))
            for _, p in written
        ]
        replies = ask(reader, talks, seeds=[0] * len(talks), max_new_tokens=8, temperature=0.0)
        verdicts = [re.match(r"\W*no\b", r.text, re.IGNORECASE) is None for r in replies]
        return [w for w, on in zip(written, verdicts, strict=True) if on], sum(map(tokens_of, replies))

    def _best(self, case: Case, kept: Sequence[tuple[Stream, Proposal]], attempts: Sequence[Attempt]) -> list[Stream]:
        for (stream, proposal), attempt in zip(kept, attempts, strict=True):
            stream.learn(proposal, feedback(case.prompt, answer_of(attempt), score_of(attempt.outcome)))
        scored = [(score_of(a.outcome) or 0, i) for i, a in enumerate(attempts)]
        return [kept[i][0] for _, i in sorted(scored, key=lambda x: (-x[0], x[1]))[: self.width]]


def _astray(written: Sequence[tuple[Stream, Proposal]], pruning: int) -> Proposal:
    """What is left of a level when all of it is pruned."""
    reason = f"every prompt of the attacker had left the subject, the first one: {written[0][1].prompt[:120]!r}"
    return Proposal(failure=Unscored(reason=reason), tokens=pruning + sum(p.tokens for _, p in written))


def attack(
    attacker: Model | str | None = None,
    evaluator: Model | str | None = None,
    branching: int = 4,
    width: int = 10,
    depth: int = 10,
) -> Tap:
    """TAP with an attacker model and, where given, an evaluator that prunes what is off topic."""
    return Tap(
        attacker=as_model(attacker), evaluator=as_model(evaluator), branching=branching, width=width, depth=depth
    )
