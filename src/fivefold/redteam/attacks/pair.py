"""PAIR: an attacker model rewrites the request again and again, told what the target answered and how it scored.

Defensive use: how few queries a scripted adversary without weights needs. Source: Chao et al. 2023, "Jailbreaking Black
Box Large Language Models in Twenty Queries" (arXiv 2310.08419), algorithm 1 and appendix: parallel streams of a few
iterations, three strategies (role play, logical appeal, authority endorsement), JSON replies opened by a prefill, the last
three exchanges kept.

Deviations: `queries` caps streams × depth (the paper: 30 × 3); the score told to the attacker is the campaign judge's value
on the scale of 1 to 10, where the paper asks a judge model of its own; a behaviour ends at its first success, in all
streams; the attacker's instructions are this project's words. Without an attacker, one fixed wrapper for each of the three
strategies is sent, which is not the paper's attack and is said so in the campaign's notes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from fivefold.redteam.attacks._dialogue import (
    Proposal,
    answer_of,
    propose,
    score_of,
    send_fixed,
    send_written,
)
from fivefold.redteam.attacks._text import succeeded
from fivefold.redteam.attacks._words import filled, words
from fivefold.redteam.attacks.template import wrap
from fivefold.redteam.helpers import TEMPLATES, Helped, as_model
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case, Message, Taxonomy

STRATEGIES = ("role_play", "logical_appeal", "authority_endorsement")
OPENING = '{"improvement": "'
REMEMBERED = 3


def instructions(request: str, strategy: str) -> str:
    """What the attacker is told at the start."""
    texts = words("attacker")
    return str(texts["rewrite"]).replace("{strategy}", texts["strategies"][strategy]).replace("{request}", request)


def feedback(request: str, answer: str, score: int | None) -> str:
    """What the attacker is told after a try."""
    shown = "none: the answer could not be judged" if score is None else str(score)
    text = str(words("attacker")["feedback"])
    return text.replace("{score}", shown).replace("{request}", request).replace("{answer}", answer[:2000])


def fixed_prompts(case: Case) -> list[tuple[str, str]]:
    """One fixed wrapper for each strategy, for when there is no attacker."""
    table = words("persuasion")["wrappers"]
    return [
        (s, wrap(s, case.prompt, case.language) if s == "role_play" else filled(table[s], case.prompt, case.language))
        for s in STRATEGIES
    ]


@dataclass
class Stream:
    """One line of attack: its instructions, and the exchanges with the attacker so far."""

    request: str
    system: Message
    asked: str
    strategy: str
    exchanges: list[tuple[Message, Message]] = field(default_factory=list)

    def conversation(self) -> tuple[Message, ...]:
        """What the attacker sees next."""
        kept = [m for pair in self.exchanges[-REMEMBERED:] for m in pair]
        return self.system, *kept, Message(role="user", content=self.asked)

    def learn(self, proposal: Proposal, told: str) -> None:
        """Remember what the attacker wrote, and what it is told of the result."""
        if proposal.failure is None:
            spoke = Message(role="user", content=self.asked), Message(role="assistant", content=proposal.reply)
            self.exchanges.append(spoke)
            self.asked = told


def open_stream(request: str, strategy: str) -> Stream:
    """A stream before its first try."""
    system = Message(role="system", content=instructions(request, strategy))
    return Stream(request, system, str(words("attacker")["begin"]).replace("{request}", request), strategy)


@dataclass(frozen=True, kw_only=True)
class Pair(Helped):
    """`depth` rounds of parallel streams, as many as the budget of queries allows, at most `streams`."""

    name: ClassVar[str] = "pair"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    taxonomy: ClassVar[Taxonomy] = attack_taxonomy("pair")
    stand_ins: ClassVar[int | None] = len(STRATEGIES)

    streams: int = 30
    depth: int = 3

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield every try, round by round, until one succeeds, the budget is spent, or no stream has anything to send."""
        if self.attacker is None:
            yield from send_fixed(case, self.name, target, judge, budget, fixed_prompts(case), attacker=TEMPLATES)
            return
        n = min(self.streams, max(1, math.ceil(budget.queries / self.depth)))
        streams = [open_stream(case.prompt, STRATEGIES[i % len(STRATEGIES)]) for i in range(n)]
        left = budget.queries
        for depth in range(self.depth):
            now = streams[:left]
            proposals = propose(
                self.attacker,
                [s.conversation() for s in now],
                rng,
                prompt_key="prompt",
                keys=("improvement",),
                prefill=OPENING,
            )
            notes = [{"depth": depth, "stream": i, "strategy": s.strategy} for i, s in enumerate(now)]
            attempts = send_written(case, self.name, target, judge, budget, proposals, notes, self.wrote)
            yield from attempts
            sent = sum(a.queries for a in attempts)
            left -= sent
            if not sent or left <= 0 or any(succeeded(a) for a in attempts):
                return
            for stream, proposal, attempt in zip(now, proposals, attempts, strict=True):
                stream.learn(proposal, feedback(case.prompt, answer_of(attempt), score_of(attempt.outcome)))


def attack(attacker: Model | str | None = None, streams: int = 30, depth: int = 3) -> Pair:
    """PAIR with an attacker model."""
    return Pair(attacker=as_model(attacker), streams=streams, depth=depth)
