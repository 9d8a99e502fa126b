"""The contract of a guard: one exchange in, one verdict out, including "I cannot judge this"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fivefold.types import Exchange, Stage, Verdict


class Guard(Protocol):
    """One guard, as its module's `guard(**options)` factory returns it."""

    name: str
    stages: frozenset[Stage]

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over everything that changes verdicts (rules, weights, threshold)."""
        ...

    def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, batched. Never raises for bad content: says `abstain` or `error`."""
        ...
