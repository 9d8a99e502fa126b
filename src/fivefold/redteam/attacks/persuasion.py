"""Persuasive adversarial prompts (PAP): the request rephrased by an attacker with one technique of persuasion each.

Defensive use: shows which everyday arguments a model gives way to. Source: Zeng et al. 2024, "How Johnny Can Persuade LLMs
to Jailbreak Them" (arXiv 2401.06373), forty techniques of table 1; a paraphraser writes, the target answers.

Deviations: the paraphraser is any attacker model with instructions, where the paper fine-tunes one; definitions are this
project's, one line each; the order of the techniques is drawn per behaviour. Without an attacker, fixed wrappers of five
techniques are sent (the paper's broad scan does use one paraphrase template a technique, though by a model).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from fivefold.redteam.attacks._dialogue import instructed, propose, send_fixed, send_written
from fivefold.redteam.attacks._text import succeeded
from fivefold.redteam.attacks._words import filled, words
from fivefold.redteam.helpers import TEMPLATES, Helped, as_model
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case, Message, Taxonomy


@dataclass(frozen=True, kw_only=True)
class Persuasion(Helped):
    """One query per technique, in batches of `batch`."""

    name: ClassVar[str] = "persuasion"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    taxonomy: ClassVar[Taxonomy] = attack_taxonomy("persuasion")

    batch: int = 4

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield every try, batch by batch, and stop after the batch that has a success."""
        table = words("persuasion")
        if self.attacker is None:
            fixed = [(name, filled(texts, case.prompt, case.language)) for name, texts in table["wrappers"].items()]
            yield from send_fixed(case, self.name, target, judge, budget, fixed, attacker=TEMPLATES)
            return
        names = rng.sample(list(table["techniques"]), len(table["techniques"]))[: budget.queries]
        for start in range(0, len(names), self.batch):
            chosen = names[start : start + self.batch]
            talks = [_talk(name, table["techniques"][name], case.prompt) for name in chosen]
            proposals = propose(self.attacker, talks, rng, max_new_tokens=300)
            notes = [{"technique": name} for name in chosen]
            attempts = send_written(case, self.name, target, judge, budget, proposals, notes, self.wrote)
            yield from attempts
            if any(succeeded(a) for a in attempts):
                return


def _talk(technique: str, definition: str, request: str) -> tuple[Message, ...]:
    texts = words("attacker")
    told = str(texts["persuade_turn"]).replace("{technique}", technique).replace("{definition}", definition)
    return instructed(texts["persuade"], told.replace("{request}", request))


def attack(attacker: Model | str | None = None, batch: int = 4) -> Persuasion:
    """PAP with an attacker model as paraphraser."""
    return Persuasion(attacker=as_model(attacker), batch=batch)
