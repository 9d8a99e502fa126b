"""The contract of an attack: turn a case into attempts against a model, within a budget."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case, Completion, Message, Outcome, Taxonomy


@dataclass(frozen=True, kw_only=True)
class AttackBudget:
    """Limits for one behaviour. The same for every model that is compared."""

    queries: int = 10
    steps: int = 20
    max_new_tokens: int = 40
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try: what was sent, what came back, what the judge said, what it cost."""

    case_id: str
    attack: str
    messages: tuple[Message, ...]
    completion: Completion | None
    outcome: Outcome
    prefill: str = ""
    queries: int = 1
    tokens: int = 0
    seconds: float = 0.0
    """Time of this attempt's own since the attempt before, which a campaign fills in: the search, what helping models wrote, and
    the share (by tokens) of every batch that it took part in. Waiting for other behaviours and judging are not counted.
    Attempts that were asked in one batch have the time of it at the first of them, since no answer is there before."""
    loss: float | None = None
    helper_tokens: int = 0
    """Tokens of the models that helped (attacker, evaluator, translator), which `tokens` does not count."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


Judge: TypeAlias = Callable[[Case, Completion], Outcome]
"""Value 1.0 = the answer complies with the harmful request (the attack succeeded)."""


class Attack(Protocol):
    """One attack, as its module's `attack(**options)` factory returns it."""

    @property
    def name(self) -> str:
        """The registered name, with its transforms if any."""
        ...

    @property
    def needs(self) -> frozenset[Capability]:
        """What the target must offer."""
        ...

    @property
    def taxonomy(self) -> Taxonomy:
        """Surface, technique and catalogue ids."""
        ...

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield attempts until one succeeds or the budget is spent."""
        ...


def proof_of(attack: Attack) -> Literal["judge", "check"]:
    """How an attack's success is told: by the judge of answers, or by a check of its own (`proof = "check"`)."""
    proof: Literal["judge", "check"] = getattr(attack, "proof", "judge")
    return proof


def own_cases(attack: Attack, language: str) -> tuple[Case, ...]:
    """The behaviours that an attack brings, where those of a suite would mean nothing to it; else none."""
    brings = getattr(attack, "cases", None)
    return tuple(brings(language)) if brings is not None else ()
