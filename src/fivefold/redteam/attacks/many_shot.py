"""Many-shot jailbreaking: many faux exchanges in which an assistant complies with everything, then the request.

Defensive use: shows how much of a refusal a long context undoes. Source: Anil et al. 2024, "Many-shot Jailbreaking"
(NeurIPS 2024), sections 2-3: the demonstrations stand in one user message, success grows with their number.

Deviations: the paper's demonstrations answer harmful questions in earnest (written by a model without refusals); those
shipped here ask mischievous everyday questions and answer without content, so the measured effect is a lower bound;
`demonstrations` names a JSONL file of your own (`question`, `answer`). Each query doubles the shots, from `first` up to
`most` (the paper: up to 256), within the target's context window as its owner knows it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar

from fivefold.errors import DataError, UsageError
from fivefold.redteam.attacks._text import request, send, succeeded
from fivefold.redteam.attacks._words import words
from fivefold.redteam.cost import asked, queries
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Cost, Model
from fivefold.types import Case, Taxonomy

Shot = tuple[str, str]
SHOT_TOKENS = 40
"""Tokens of a demonstration, about: for the estimate of what a run takes."""


@dataclass(frozen=True, kw_only=True)
class ManyShot:
    """One query for each number of shots: `first`, twice that, …, `most`."""

    name: ClassVar[str] = "many_shot"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    taxonomy: ClassVar[Taxonomy] = attack_taxonomy("many_shot")

    first: int = 4
    most: int = 64
    demonstrations: tuple[Shot, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.most:
            raise UsageError(
                "many_shot: not numbers of shots", expected="1 <= first <= most", got=(self.first, self.most)
            )

    def cost(self, budget: AttackBudget, *, prompt_tokens: int, behaviours: int) -> Cost:
        """Prompts that grow with their shots."""
        sizes = [min(self.first * 2**i, self.most) for i in range(budget.queries)]
        sizes = sizes[: sizes.index(self.most) + 1 if self.most in sizes else None]
        n = queries(budget, len(sizes))
        cost = asked(n, budget, prompt_tokens)
        total = cost.prompt_tokens + SHOT_TOKENS * sum(sizes[:n])
        return Cost(
            requests=n * behaviours,
            prompt_tokens=total * behaviours,
            completion_tokens=cost.completion_tokens * behaviours,
        )

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt for each number of shots until one succeeds."""
        shots = self.first
        for _ in range(budget.queries):
            prompt = self.prompt(case, shots, rng)
            (sent,) = send(case, self.name, target, judge, budget, [request(case, prompt, budget)], [{"shots": shots}])
            yield sent
            if succeeded(sent) or shots >= self.most:
                return
            shots = min(2 * shots, self.most)

    def prompt(self, case: Case, shots: int, rng: random.Random) -> str:
        """The user message with `shots` demonstrations, in the case's language where there are some."""
        table = words("many_shot").get(case.language) or words("many_shot")["en"]
        pool = list(self.demonstrations) or list(product(table["questions"], table["answers"]))
        drawn: list[Shot] = []
        while len(drawn) < shots:
            drawn += rng.sample(pool, len(pool))
        lines = [table["ask"].replace("{q}", q).replace("{a}", a) for q, a in drawn[:shots]]
        return "\n\n".join([*lines, table["last"].replace("{request}", case.prompt)])


def _read(path: Path) -> tuple[Shot, ...]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        shots = tuple((str(r["question"]), str(r["answer"])) for r in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} holds no demonstrations", expected="JSONL with question and answer", got=error
        ) from error
    if not shots:
        raise DataError(f"{path} holds no demonstrations", expected="JSONL with question and answer")
    return shots


def attack(first: int = 4, most: int = 64, demonstrations: str | Sequence[Shot] = ()) -> ManyShot:
    """Many-shot with the shipped demonstrations, or those of a JSONL file."""
    own = _read(Path(demonstrations)) if isinstance(demonstrations, str) else tuple((q, a) for q, a in demonstrations)
    return ManyShot(first=first, most=most, demonstrations=own)
