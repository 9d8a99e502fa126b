"""Gates and the decision that a release rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

DecisionKind: TypeAlias = Literal["ship", "ship_with_safeguards", "block", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The interval bound that is worse for safety meets the threshold, with enough cases."""

    kind: ClassVar[str] = "pass"
    reason: str


@dataclass(frozen=True, kw_only=True)
class Fail:
    """The whole interval lies on the wrong side, or the estimate does and no more data is promised."""

    kind: ClassVar[str] = "fail"
    reason: str


@dataclass(frozen=True, kw_only=True)
class Undecided:
    """Not enough evidence; `missing` says what, `next_measurement` the cheapest way to get it."""

    kind: ClassVar[str] = "undecided"
    reason: str
    missing: tuple[str, ...] = ()
    next_measurement: str = ""
    extra_cases: int | None = None


@dataclass(frozen=True, kw_only=True)
class Waived:
    """A named owner accepts this item until a date, for a reason."""

    kind: ClassVar[str] = "waived"
    reason: str
    owner: str
    expiry: str


Verdict4: TypeAlias = Pass | Fail | Undecided | Waived


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One rule of a gate file applied to one subject."""

    rule: str
    subject: str
    subject_name: str
    verdict: Verdict4
    metric: str
    threshold: float
    bound: float | None
    measurement: str | None
    slice: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do with a version: the gate's results, the closure of evidence by hash, and a named owner."""

    decision: DecisionKind
    subject: str
    subject_name: str
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...]
    closure: Mapping[str, str]
    owner: str
    decided_at: str
    run: str
    next_measurement: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
