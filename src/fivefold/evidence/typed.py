"""Nouns to and from records: measurements, findings, model versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from fivefold.errors import StoreError
from fivefold.evidence.chain import Record
from fivefold.evidence.ledger import Writer, matches
from fivefold.types import (
    TRANSITIONS,
    Finding,
    Measurement,
    Message,
    ModelVersion,
    Reproduction,
    Status,
    Taxonomy,
    digest,
    plain,
)


def body_of(value: Measurement | Finding | ModelVersion) -> dict[str, Any]:
    """The noun as a record's body."""
    try:
        body = plain(value)
    except (TypeError, ValueError) as error:
        raise StoreError(f"this {type(value).__name__} cannot be stored", got=error) from error
    assert isinstance(body, dict)
    return body


def measurement_of(record: Record) -> Measurement:
    """The measurement in a record; its id is the record's."""
    return Measurement(**_known(Measurement, {**record.body, "id": record.id}))


def version_of(record: Record) -> ModelVersion:
    """The model version in a record."""
    return ModelVersion(**_known(ModelVersion, record.body))


def finding_of(record: Record) -> Finding:
    """The finding in the state that a record gives it."""
    data = dict(record.body)
    data["taxonomy"] = Taxonomy(**{k: _tuple(v) for k, v in data["taxonomy"].items()})
    data["reproductions"] = tuple(_reproduction(r) for r in data["reproductions"])
    data["behaviours"] = tuple(data["behaviours"])
    data["patches"] = tuple(data["patches"])
    data["also"] = tuple(data.get("also", ()))
    data["history"] = tuple((str(s), str(e), str(why)) for s, e, why in data["history"])
    return Finding(**_known(Finding, data))


def identity(measurement: Measurement) -> str:
    """What a measurement is of; a later one of the same identity and run takes its place."""
    m = measurement
    return digest([m.run, m.metric, m.subject, m.slice, m.dataset, m.judge, m.corrects is None, m.level])


def add_finding(writer: Writer, finding: Finding) -> Finding:
    """Append a new finding, or a sighting when it is known; the finding as it stands."""
    if known := writer.by_key("finding", finding.id):
        seen = {"finding": finding.id, "subject": finding.subject, "attack": finding.attack, "run": finding.run}
        if finding.run != known[0].run and not _sighted(writer, finding):
            writer.append("sighting", seen, finding.run)
        return finding_of(known[-1])
    if finding.status != "open":
        raise StoreError(
            f"finding {finding.id} is new, so it is open", got=finding.status, next_step="add it open, then update it"
        )
    history = finding.history or (("open", "", "found"),)
    made = replace(finding, history=history)
    writer.append("finding", body_of(made), finding.run)
    return made


def update_finding(
    writer: Writer, id: str, *, status: Status | None, evidence: str, reason: str, run: str, changes: Mapping[str, Any]
) -> Finding:
    """Append the next state of a finding; StoreError for an unknown finding, transition, field or evidence."""
    known = writer.by_key("finding", id)
    if not known:
        raise StoreError(f"no finding {id}", next_step="fivefold findings list")
    current = finding_of(known[-1])
    _check_changes(changes)
    if evidence and not writer.has(evidence):
        raise StoreError(f"finding {id} cannot rest on {evidence[:16]}: no such record", expected="the id of a record")
    moved = status is not None and status != current.status
    if moved:
        assert status is not None
        _check_move(current, status, reason)
    history = (*current.history, (status, evidence, reason)) if moved else current.history
    after = replace(current, **{**changes, "status": status or current.status, "history": history})
    if after == current:
        return current
    writer.append("finding", body_of(after), run or current.run)
    return after


def select_measurements(records: list[Record], filters: Mapping[str, Any], *, history: bool) -> list[Measurement]:
    """The measurements that match, without those that a later one replaced unless `history`."""
    found = [measurement_of(r) for r in records if matches(r.body, filters)]
    if history:
        return found
    last = {identity(m): m.id for m in found}
    return [m for m in found if last[identity(m)] == m.id]


def _sighted(writer: Writer, finding: Finding) -> bool:
    return any(r.run == finding.run for r in writer.by_key("sighting", finding.id))


def _check_changes(changes: Mapping[str, Any]) -> None:
    free = {f.name for f in fields(Finding)} - {"id", "status", "history", "run", "subject"}
    if unknown := sorted(set(changes) - free):
        raise StoreError("not a change to a finding", expected=", ".join(sorted(free)), got=", ".join(unknown))


def _check_move(current: Finding, status: Status, reason: str) -> None:
    allowed = TRANSITIONS[current.status]
    if status not in allowed:
        raise StoreError(
            f"finding {current.id} cannot go from {current.status} to {status}",
            expected=" or ".join(allowed),
            got=status,
            next_step="open → patched → verified → closed; any later hit → regressed",
        )
    if not reason:
        raise StoreError(f"finding {current.id} cannot become {status} without a reason")


def _reproduction(data: Mapping[str, Any]) -> Reproduction:
    messages = tuple(Message(**m) for m in data["messages"])
    return Reproduction(**{**data, "messages": messages})


def _known(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    if unknown := sorted(set(data) - names):
        raise StoreError(f"this {cls.__name__} has fields that this fivefold does not know", got=", ".join(unknown))
    return dict(data)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
