"""Persona jailbreaks: the DAN family and its relatives, each a short role that is said to have no rules.

Defensive use: the oldest and most copied family of jailbreaks, which a model must withstand first. Source: families of Shen
et al. 2023, "Do Anything Now" (arXiv 2308.03825), and Wei et al. 2023, "Jailbroken" (arXiv 2307.02483). Deviation: the
wordings are this project's own (`personas.yaml`), one or two sentences where the originals run to pages; the originals are
sent by `in_the_wild`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fivefold.errors import UnknownNameError
from fivefold.redteam.attacks._dialogue import send_fixed
from fivefold.redteam.attacks._words import filled, words
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case, Taxonomy


@dataclass(frozen=True, kw_only=True)
class Personas:
    """One query per persona."""

    name: ClassVar[str] = "personas"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    taxonomy: ClassVar[Taxonomy] = attack_taxonomy("personas")

    personas: tuple[str, ...]

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt per persona until one succeeds."""
        table = words("personas")
        prompts = [(name, filled(table[name], case.prompt, case.language)) for name in self.personas]
        yield from send_fixed(case, self.name, target, judge, budget, prompts)


def attack(personas: Sequence[str] = ()) -> Personas:
    """All personas, or those named."""
    known = words("personas")
    for name in personas:
        if name not in known:
            raise UnknownNameError("persona", name, known)
    return Personas(personas=tuple(personas) or tuple(known))
