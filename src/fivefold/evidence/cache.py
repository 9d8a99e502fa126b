"""Remembered answers of models, so that a killed run loses only what was in flight."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from fivefold.errors import TamperedError
from fivefold.evidence.chain import body_text, now
from fivefold.evidence.database import Database
from fivefold.evidence.schema import completions
from fivefold.types import digest_bytes

BATCH = 500
"""Keys a query; SQLite takes at most 999 parameters in old builds."""


class CompletionCache:
    """Values by key. Each is committed when it is remembered; the first value of a key stays."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def cached(self, keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """The remembered values of those keys that are known; TamperedError when one was changed since."""
        found: dict[str, Mapping[str, Any]] = {}
        for start in range(0, len(keys), BATCH):
            query = sa.select(completions).where(completions.c.key.in_(keys[start : start + BATCH]))
            with self.database.read() as conn:
                for row in conn.execute(query):
                    found[row.key] = _value(row.key, row.value, row.digest)
        return found

    def remember(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep one value."""
        self.remember_all({key: value})

    def remember_all(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep several values in one transaction."""
        rows = [_row(key, value) for key, value in values.items()]
        if not rows:
            return
        with self.database.write(durable=False) as conn:
            conn.execute(_insert_new(self.database.sqlite), rows)

    def forget(self, model: str) -> int:
        """Drop what a model (by fingerprint) answered; how many values that were."""
        with self.database.write() as conn:
            return conn.execute(completions.delete().where(completions.c.model == model)).rowcount

    def count(self) -> int:
        """How many values are remembered."""
        with self.database.read() as conn:
            return conn.execute(sa.select(sa.func.count()).select_from(completions)).scalar_one()


def _insert_new(sqlite: bool) -> sa.Insert:
    """Insert where the key is not there yet."""
    if sqlite:
        return completions.insert().prefix_with("OR IGNORE")
    # Imported here: this dialect costs as much to import as the rest of the store, and few use it.
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(completions).on_conflict_do_nothing()


def _row(key: str, value: Mapping[str, Any]) -> dict[str, str]:
    text = body_text("completion", value)
    model = str(value.get("model", ""))
    return {"key": key, "model": model, "value": text, "digest": digest_bytes(text.encode()), "created_at": now()}


def _value(key: str, text: str, digest: str) -> Mapping[str, Any]:
    if digest_bytes(text.encode()) != digest:
        raise TamperedError(
            f"the remembered answer {key[:12]} was changed",
            next_step="remove the row from the table `completions`: the answer will be computed again",
        )
    value: Mapping[str, Any] = json.loads(text)
    return value
