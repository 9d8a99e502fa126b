"""From gates to a decision about which version may ship, with the closure of its evidence by hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fivefold.govern.gate import GateFile, status_of
from fivefold.types import Decision, DecisionKind, GateResult, Undecided, digest


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One model version that could ship: its gate results, and whether it needs guards at run time."""

    name: str
    fingerprint: str
    guarded: bool
    gates: tuple[GateResult, ...]


def choose(candidates: Sequence[Candidate]) -> tuple[DecisionKind, Candidate]:
    """The decision and the version it is about.

    The first version that passes without guards ships; else the first that passes with guards ships with safeguards;
    else, when every version fails a rule, the release is blocked; else it is undecided. Among equals the version with
    the most safeguards is named, because it is the one to measure next.
    """
    passing = [c for c in candidates if status_of(c.gates) == "pass"]
    bare = [c for c in passing if not c.guarded]
    if bare:
        return "ship", bare[0]
    if passing:
        return "ship_with_safeguards", passing[0]
    best = min(reversed(candidates), key=lambda c: (_count(c, "fail"), _count(c, "undecided")))
    return ("block" if status_of(best.gates) == "fail" else "undecided"), best


def decide(
    candidates: Sequence[Candidate],
    *,
    gate: GateFile,
    owner: str,
    run: str,
    decided_at: str,
    evidence: Mapping[str, str],
) -> Decision:
    """The decision of one gate over all candidates. `evidence` maps what the decision rests on to its digest."""
    kind, chosen = choose(candidates)
    others = [c for c in candidates if c is not chosen]
    reasons = [_headline(kind, chosen)]
    reasons += [f"{r.rule}: {r.verdict.reason}" for r in chosen.gates if r.verdict.kind != "pass"]
    reasons += [f"{c.name}: {status_of(c.gates)}" + _worst(c) for c in others]
    closure = {**evidence, "gate": digest(gate.model_dump(mode="json"))}
    return Decision(
        decision=kind,
        subject=chosen.fingerprint,
        subject_name=chosen.name,
        reasons=tuple(reasons),
        gates=tuple(r for c in candidates for r in c.gates),
        closure=closure,
        owner=owner,
        decided_at=decided_at,
        run=run,
        next_measurement=cheapest_next(chosen.gates),
        metadata={"gate": gate.gate, "gate_version": gate.version},
    )


def cheapest_next(gates: Sequence[GateResult]) -> str:
    """The undecided rule that the fewest extra cases would settle."""
    open_rules = [r.verdict for r in gates if isinstance(r.verdict, Undecided)]
    if not open_rules:
        return ""
    best = min(open_rules, key=lambda v: v.extra_cases if v.extra_cases is not None else 10**9)
    return best.next_measurement


def stale(decision: Decision, current: Mapping[str, str]) -> list[str]:
    """What has changed since the decision: every name in its closure whose digest is different or gone."""
    return [name for name, value in decision.closure.items() if current.get(name) != value]


def _count(candidate: Candidate, kind: str) -> int:
    return sum(r.verdict.kind == kind for r in candidate.gates)


def _headline(kind: DecisionKind, chosen: Candidate) -> str:
    return {
        "ship": f"{chosen.name} passes every rule of the gate",
        "ship_with_safeguards": f"{chosen.name} passes every rule of the gate; it needs its guards at run time",
        "block": f"no version passes; {chosen.name} comes closest and fails {_count(chosen, 'fail')} rule(s)",
        "undecided": f"{chosen.name} fails no rule, but {_count(chosen, 'undecided')} rule(s) lack evidence",
    }[kind]


def _worst(candidate: Candidate) -> str:
    failed = [r.rule for r in candidate.gates if r.verdict.kind == "fail"]
    return f" (fails {', '.join(failed)})" if failed else ""
