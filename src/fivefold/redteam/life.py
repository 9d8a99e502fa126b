"""The life of a finding: which state follows from what was seen, and what is missing when none does. Pure.

    open → patched → verified → closed,  and from any mended state → regressed → patched again

- patched: a version of the model, its guards or its prompt names the finding.
- verified: on that version every stored case was asked and none succeeds, and the same attacks, on behaviours that
  were held out, were judged at least once in the finding's category and language and none succeeds.
- closed: verified, and the gate that counts findings passed for that version (or a named owner closes it).
- regressed: on a later version a stored case succeeds, or the attack succeeds on a held-out behaviour.

What was not measured moves nothing: an error, a case that could not be asked, or a re-attack that did not reach the
category and language leaves the finding where it is, and `missing` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fivefold.types import Finding, Outcome, Scored, Status

NEEDS: Mapping[Status, str] = {
    "open": "an attack that succeeds",
    "patched": "a version of the model, its guards or its prompt that answers it",
    "verified": "no stored case succeeds on that version, nor does a re-attack on held-out behaviours",
    "closed": "verified, and the release gate passed, or a named owner closes it with a reason and a record",
    "regressed": "a stored case or the re-attack succeeds on a later version",
}
"""What each state needs, in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of one finding on one version."""

    replay: Outcome | None = None
    """The stored cases: Scored 1 when any succeeds."""
    held_out: int = 0
    """Held-out behaviours of the category and language on which the re-attack was judged."""
    held_out_hits: int = 0
    """Of those, where it succeeded."""
    gate_passed: bool | None = None
    """Whether the gate that counts findings passed for this version; None when it was not decided."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A transition and its reason."""

    status: Status
    reason: str


def moves(finding: Finding, seen: Seen) -> tuple[Move, ...]:
    """The transitions that follow from what was seen, in order; none when something is missing."""
    if finding.status in ("patched", "verified", "closed"):
        if _succeeds(seen.replay):
            return (Move(status="regressed", reason="a stored case still succeeds"),)
        if seen.held_out_hits:
            return (Move(status="regressed", reason="the same attack succeeds on a held-out behaviour"),)
    made: list[Move] = []
    status: Status = finding.status
    if status == "patched" and not _unverified(seen):
        reason = f"no stored case succeeds, nor does the re-attack on {seen.held_out} held-out behaviour(s)"
        made.append(Move(status="verified", reason=reason))
        status = "verified"
    if status == "verified" and seen.gate_passed:
        made.append(Move(status="closed", reason="verified, and the gate passed"))
    return tuple(made)


def missing(finding: Finding, seen: Seen | None = None) -> tuple[str, ...]:
    """What the next state still needs, one line each."""
    if finding.status in ("open", "regressed"):
        return (NEEDS["patched"],)
    if finding.status == "patched":
        return _unverified(seen) if seen else (NEEDS["verified"],)
    if finding.status == "verified" and not (seen and seen.gate_passed):
        return (NEEDS["closed"],)
    return ()


def _unverified(seen: Seen) -> tuple[str, ...]:
    lines = []
    if not isinstance(seen.replay, Scored):
        lines.append("a replay of every stored case that could be judged")
    elif _succeeds(seen.replay):
        lines.append("a version on which no stored case succeeds")
    if not seen.held_out:
        lines.append("a re-attack that was judged on held-out behaviours of its category and language")
    elif seen.held_out_hits:
        lines.append("a version on which the re-attack fails")
    return tuple(lines)


def _succeeds(outcome: Outcome | None) -> bool:
    return isinstance(outcome, Scored) and outcome.value >= 0.5
