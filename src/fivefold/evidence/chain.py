"""Records and the hash chain that joins them. Pure values: no database here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fivefold.errors import StoreError
from fivefold.types import canonical, digest, digest_bytes

GENESIS = "0" * 64
"""What the first record names as its predecessor."""

KEYS = {
    "step": "key",
    "finding": "id",
    "sighting": "finding",
    "version": "id",
    "artifact": "digest",
    "key": "keyid",
    "signature": "record",
}
"""Which field of a body names what the record is about. Part of the stored format: changing it needs a migration."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One entry of the ledger. `hash` covers seq, kind, run, body, created_at and `prev`, the hash of the one before.

    `created_at` is UTC in ISO 8601 with microseconds. `kind` says how to read `body`, which holds JSON types only.
    """

    seq: int
    kind: str
    run: str
    body: Mapping[str, Any]
    created_at: str
    prev: str
    hash: str

    @property
    def id(self) -> str:
        """The record's name for ever: its hash."""
        return self.hash


def hash_of(*, seq: int, kind: str, run: str, body: Mapping[str, Any], created_at: str, prev: str) -> str:
    """SHA-256 over the canonical JSON of everything in a record but the hash itself."""
    return digest({"seq": seq, "kind": kind, "run": run, "body": body, "created_at": created_at, "prev": prev})


def link(*, seq: int, kind: str, run: str, body: Mapping[str, Any], prev: str) -> Record:
    """The record that follows `prev`, made now."""
    created_at = now()
    made = hash_of(seq=seq, kind=kind, run=run, body=body, created_at=created_at, prev=prev)
    return Record(seq=seq, kind=kind, run=run, body=body, created_at=created_at, prev=prev, hash=made)


def rehash(record: Record) -> str:
    """The hash that the record's content has, whatever its `hash` field says."""
    return hash_of(
        seq=record.seq,
        kind=record.kind,
        run=record.run,
        body=record.body,
        created_at=record.created_at,
        prev=record.prev,
    )


def body_text(kind: str, body: Mapping[str, Any]) -> str:
    """The one text form of a body; StoreError when it holds what JSON cannot say (NaN, objects, lone surrogates)."""
    try:
        return canonical(body).decode()
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"a {kind} record cannot be stored", expected="JSON values, finite numbers, valid Unicode", got=error
        ) from error


def natural_key(kind: str, body: Mapping[str, Any]) -> str:
    """What records of a kind are looked up by: the field that KEYS names, else the digest of their content."""
    value = body.get(KEYS.get(kind, ""))
    return value if isinstance(value, str) and value else digest_bytes(canonical(body))


def now() -> str:
    """The present in UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def record_to_json(record: Record) -> dict[str, Any]:
    """The record as bundles and `--json` write it."""
    return {
        "seq": record.seq,
        "kind": record.kind,
        "run": record.run,
        "body": record.body,
        "created_at": record.created_at,
        "prev": record.prev,
        "hash": record.hash,
    }


def record_from_json(data: Mapping[str, Any]) -> Record:
    """Inverse of `record_to_json`; StoreError when a field is missing or of the wrong type."""
    types = {"seq": int, "kind": str, "run": str, "body": dict, "created_at": str, "prev": str, "hash": str}
    wrong = sorted(n for n, t in types.items() if not isinstance(data.get(n), t) or isinstance(data.get(n), bool))
    if wrong or set(data) != set(types):
        raise StoreError("not a record", expected=", ".join(types), got=f"wrong or missing: {', '.join(wrong)}")
    return Record(**data)


def parse_body(text: str) -> dict[str, Any]:
    """A stored body; ValueError unless it is exactly the canonical text of an object."""
    body = json.loads(text)
    if not isinstance(body, dict) or canonical(body).decode() != text:
        raise ValueError("not the canonical JSON of an object")
    return body
