"""The contract of a scorer: a case and a completion in, an outcome out."""

from __future__ import annotations

from typing import Protocol

from fivefold.types import Case, Completion, Outcome


class Scorer(Protocol):
    """One scorer, as its module's `scorer(**options)` factory returns it."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 hex over everything that changes its outcomes; recorded as a measurement's `judge`."""
        ...

    def __call__(self, case: Case, completion: Completion) -> Outcome:
        """Judge one completion. A completion with an error is Errored; the judge's own failure is Errored."""
        ...
