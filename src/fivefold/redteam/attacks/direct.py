"""Direct request: the behaviour as it stands, no attack at all; the baseline every other attack is read against.

Defensive use: the floor of an assessment (HarmBench "Direct Request", Mazeika et al. 2024, arXiv 2402.04249).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from fivefold.redteam.attacks._text import request, send
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case


class Direct:
    """One query: the case's own words."""

    name = "direct"
    needs = frozenset({Capability.GENERATE})
    taxonomy = attack_taxonomy("direct")
    most_queries = 1

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield the single attempt."""
        yield from send(case, self.name, target, judge, budget, [request(case, case.prompt, budget)])


def attack() -> Direct:
    """The baseline attack."""
    return Direct()
