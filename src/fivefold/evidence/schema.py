"""The tables as SQLAlchemy Core sees them. What creates them is `migrations/`."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, String, Table, Text

REVISIONS = ("0001",)
"""Schema revisions in order; the last one is what this code reads and writes."""

VERSION_TABLE = "fivefold_schema"

metadata = MetaData()

records = Table(
    "records",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(64), nullable=False),
    Column("run", String(200), nullable=False),
    Column("key", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("prev", String(64), nullable=False, unique=True),
    Column("hash", String(64), nullable=False, unique=True),
)
"""The ledger. `key` is derived from `body` (`chain.natural_key`) for look-ups and is not part of the hash."""

completions = Table(
    "completions",
    metadata,
    Column("key", String(128), primary_key=True),
    Column("model", String(128), nullable=False),
    Column("value", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", String(40), nullable=False),
)
"""Remembered answers: a cache, not evidence, so it is outside the chain."""

TRIGGERS = ("records_no_update", "records_no_delete", "records_only_append")
"""Triggers that refuse to change or remove a record, or to insert one anywhere but at the end."""
