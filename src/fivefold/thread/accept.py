"""Which run later ones are held against: the last that somebody accepted, or that a gate let ship."""

from __future__ import annotations

from typing import Any

from fivefold.errors import UsageError
from fivefold.evidence import Store
from fivefold.evidence.chain import Record
from fivefold.thread.compare import compare_runs
from fivefold.thread.outcomes import load

KIND = "accepted"
SHIPS = ("ship", "ship_with_safeguards")


def accept(store: Store, name: str, *, owner: str, reason: str = "") -> Record:
    """Record that RUN or RUN:VERSION is what later runs are compared with; signed. An imported run is refused: it was
    not measured here."""
    found = load(store, name)
    if external := sorted({s.external for s in found if s.external}):
        raise UsageError(
            f"{name} was imported, so it cannot be accepted", got=", ".join(external), next_step="measure it here first"
        )
    if not owner.strip():
        raise UsageError("acceptance has an owner", next_step="--owner NAME")
    body = {"run": name, "owner": owner, "reason": reason, "suites": sorted(s.suite for s in found)}
    return store.append(KIND, body, signed=True)


def accepted(store: Store) -> str | None:
    """RUN or RUN:VERSION of the last acceptance: by hand, or by a decision to ship."""
    by_hand = [(r.seq, str(r.body["run"])) for r in store.records(KIND)]
    shipped = [
        (r.seq, f"{r.run}:{r.body['subject_name']}")
        for r in store.records("decision")
        if r.body.get("decision") in SHIPS
    ]
    return max([*by_hand, *shipped], default=(0, None))[1]


def against_accepted(store: Store, run: str) -> dict[str, Any] | None:
    """The comparison of `run` with the last accepted one; None when there is none, or it is `run` itself.

    Runs that cannot be compared give `{"a", "b", "verdict": "not compared", "reason"}`: that is no pass.
    """
    other = accepted(store)
    if other is None or other == run:
        return None
    try:
        return compare_runs(store, other, run)
    except UsageError as error:
        reason = "; ".join(part for part in (error.what, error.got) if part)
        return {"a": other, "b": run, "verdict": "not compared", "reason": reason}
