"""(Case, Completion) -> Outcome: rules, likelihood, judges; the judge of answers with its measured error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivefold.registry import registry

if TYPE_CHECKING:
    from fivefold.score.protocol import Scorer


def scorer(name: str, **options: Any) -> Scorer:
    """The registered scorer `name`; UnknownNameError suggests the nearest."""
    made: Scorer = registry("scorer").module(name).scorer(**options)
    return made
