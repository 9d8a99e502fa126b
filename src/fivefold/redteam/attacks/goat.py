"""GOAT: an attacker that talks with the target over several turns, remembers all of it, and thinks before each turn.

Defensive use: a whole conversation under attack, as a persistent person would lead it. Source: Pavlova et al. 2024,
"Automated Red Teaming with GOAT: the Generative Offensive Agent Tester" (arXiv 2410.01606), sections 3.1-3.3: observation,
thought, strategy, reply; a toolbox of attacks in the instructions; up to five turns.

Deviations: the toolbox is six families in a line each, in this project's words; `queries` may end it early; success is the
campaign judge's word after each turn, of which the notes of `crescendo` on judges by rules hold too. Without an attacker,
fixed follow-ups to a refusal are sent in one conversation, each of which asks for the behaviour itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fivefold.redteam.attacks._dialogue import (
    answer_of,
    before,
    instructed,
    nothing_sent,
    propose,
    said,
    turn,
)
from fivefold.redteam.attacks._text import send, succeeded
from fivefold.redteam.attacks._words import filled, words
from fivefold.redteam.helpers import Helped, as_model, read_fields
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case, Errored, Message, Taxonomy


@dataclass(frozen=True, kw_only=True)
class Goat(Helped):
    """One conversation of up to `turns` turns."""

    name: ClassVar[str] = "goat"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    taxonomy: ClassVar[Taxonomy] = attack_taxonomy("goat")

    turns: int = 5

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt a turn, until one succeeds."""
        history = before(case)
        start = len(history)
        for step in range(1, min(self.turns, budget.queries) + 1):
            prompt, strategy, tokens = "", "", 0
            if self.attacker is None:
                follow_ups = words("crescendo")["follow_ups"]
                if step > len(follow_ups):
                    return
                prompt, strategy = filled(follow_ups[step - 1], case.prompt, case.language), f"follow-up {step}"
            else:
                talk = instructed(self._system(case), self._told(step, history[start:]))
                (proposal,) = propose(self.attacker, [talk], rng, prompt_key="reply", prefill='{"observation": "')
                if proposal.failure is not None:
                    yield nothing_sent(case, self.name, proposal, self.wrote)
                    return
                prompt, tokens = proposal.prompt, proposal.tokens
                strategy = _strategy_in(proposal.reply)
            note = {"turn": step, "strategy": strategy, "attacker": self.wrote}
            (sent,) = send(case, self.name, target, judge, budget, [turn(history, prompt, budget)], [note])
            yield replace(sent, helper_tokens=tokens)
            if succeeded(sent) or isinstance(sent.outcome, Errored):
                return
            history = said(history, prompt, answer_of(sent))

    def _system(self, case: Case) -> str:
        return str(words("attacker")["goat"]).replace("{request}", case.prompt)

    def _told(self, step: int, history: Sequence[Message]) -> str:
        talk = "\n".join(f"{'you' if m.role == 'user' else 'model'}: {m.content}" for m in history) or "nothing yet"
        text = str(words("attacker")["goat_turn"]).replace("{steps}", str(self.turns)).replace("{step}", str(step))
        return text.replace("{conversation}", talk[-6000:])


def _strategy_in(reply: str) -> str:
    return (read_fields(reply, "strategy") or {}).get("strategy", "")


def attack(attacker: Model | str | None = None, turns: int = 5) -> Goat:
    """GOAT with an attacker model."""
    return Goat(attacker=as_model(attacker), turns=turns)
