"""What a scorer says of one completion. Three things that are never mixed: scored, unscored, errored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A judged answer. `value` is what the metric averages (1.0 = the scorer's event happened); `label` names it."""

    kind: ClassVar[str] = "scored"
    value: float
    label: str
    judge: str
    explanation: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Unscored:
    """No verdict was possible for a reason that is nobody's failure (no answer asked, ambiguous, skipped by budget)."""

    kind: ClassVar[str] = "unscored"
    reason: str
    judge: str = ""


@dataclass(frozen=True, kw_only=True)
class Errored:
    """The model or the judge failed. Neither a hit nor a pass."""

    kind: ClassVar[str] = "errored"
    error: str
    judge: str = ""


Outcome: TypeAlias = Scored | Unscored | Errored


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """Inverse of `plain(outcome)`."""
    fields = {k: v for k, v in data.items() if k != "kind"}
    kinds: dict[str, type[Scored] | type[Unscored] | type[Errored]] = {c.kind: c for c in (Scored, Unscored, Errored)}
    if data.get("kind") not in kinds:
        raise ValueError(f"not an outcome: kind {data.get('kind')!r}")
    return kinds[data["kind"]](**fields)
