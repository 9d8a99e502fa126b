"""The ledger: records appended one after the other, found again by kind, run and key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fivefold.errors import StoreError, TamperedError
from fivefold.evidence.chain import GENESIS, Record, body_text, link, natural_key
from fivefold.evidence.database import Database
from fivefold.evidence.schema import records

PAGE = 1000
MIN_PREFIX = 6


class Ledger:
    """Append and look up; nothing else."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """A transaction in which what is read stays true until what is appended is in."""
        with self.database.write() as conn:
            yield Writer(conn)

    def select(
        self, kind: str | None = None, run: str | None = None, *, newest_first: bool = False
    ) -> Iterator[Record]:
        """Records in order, read page by page."""
        after: int | None = None
        while True:
            query = _where(kind, run)
            if after is not None:
                query = query.where(records.c.seq < after if newest_first else records.c.seq > after)
            order = records.c.seq.desc() if newest_first else records.c.seq
            with self.database.read() as conn:
                page = conn.execute(query.order_by(order).limit(PAGE)).all()
            yield from map(record_of, page)
            if len(page) < PAGE:
                return
            after = page[-1].seq

    def get(self, id_or_prefix: str) -> Record:
        """The record whose id starts so; StoreError when none or several do, or the prefix is too short."""
        text = id_or_prefix.strip().lower()
        if len(text) < MIN_PREFIX or any(c not in "0123456789abcdef" for c in text):
            raise StoreError(
                "not a record id", expected=f"at least {MIN_PREFIX} hex digits", got=repr(id_or_prefix)[:80]
            )
        with self.database.read() as conn:
            found = conn.execute(sa.select(records).where(records.c.hash.startswith(text)).limit(3)).all()
        if len(found) != 1:
            raise StoreError(
                f"{'several records start' if found else 'no record starts'} with {text}",
                got=", ".join(r.hash[:16] for r in found) or None,
                next_step="give more digits" if found else "fivefold measurements lists the records",
            )
        return record_of(found[0])

    def by_key(self, kind: str, key: str) -> list[Record]:
        """Records of a kind with this natural key, oldest first."""
        with self.database.read() as conn:
            return _by_key(conn, kind, key)

    def has_key(self, kind: str, key: str) -> bool:
        """Whether there is a record of a kind with this natural key; its body is not read."""
        query = sa.select(records.c.seq).where(records.c.kind == kind, records.c.key == key).limit(1)
        with self.database.read() as conn:
            return conn.execute(query).first() is not None

    def latest_by_key(self, kind: str) -> list[Record]:
        """The last record of every natural key of a kind, in the order in which the keys first appeared."""
        c = records.c
        spans = sa.select(sa.func.min(c.seq).label("first"), sa.func.max(c.seq).label("last"))
        ends = spans.where(c.kind == kind).group_by(c.key).subquery()
        query = sa.select(records).join(ends, c.seq == ends.c.last).order_by(ends.c.first)
        with self.database.read() as conn:
            return [record_of(r) for r in conn.execute(query)]

    def last(self) -> Record | None:
        """The end of the chain."""
        with self.database.read() as conn:
            row = conn.execute(sa.select(records).order_by(records.c.seq.desc()).limit(1)).first()
        return None if row is None else record_of(row)


class Writer:
    """One write transaction on the ledger; `appended` is what it has added so far."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.appended: list[Record] = []

    def append(self, kind: str, body: Mapping[str, Any], run: str = "") -> Record:
        """Add a record at the end of the chain."""
        if not kind or len(kind) > 64 or len(run) > 200:
            raise StoreError(
                "not a record", expected="a kind of 1 to 64 characters, a run of at most 200", got=kind[:80]
            )
        text = body_text(kind, body)
        clean = json.loads(text)
        end = self.conn.execute(
            sa.select(records.c.seq, records.c.hash).order_by(records.c.seq.desc()).limit(1)
        ).first()
        record = link(seq=end.seq + 1 if end else 1, kind=kind, run=run, body=clean, prev=end.hash if end else GENESIS)
        self.conn.execute(
            records.insert().values(
                seq=record.seq,
                kind=kind,
                run=run,
                key=natural_key(kind, clean),
                body=text,
                created_at=record.created_at,
                prev=record.prev,
                hash=record.hash,
            )
        )
        self.appended.append(record)
        return record

    def append_once(self, kind: str, body: Mapping[str, Any], run: str = "") -> Record:
        """The record of this kind and run with exactly this body, added if there is none."""
        clean = json.loads(body_text(kind, body))
        for record in self.by_key(kind, natural_key(kind, clean)):
            if record.run == run and record.body == clean:
                return record
        return self.append(kind, clean, run)

    def by_key(self, kind: str, key: str) -> list[Record]:
        """Records of a kind with this natural key, oldest first."""
        return _by_key(self.conn, kind, key)

    def has(self, id: str) -> bool:
        """Whether a record with this id exists."""
        return self.conn.execute(sa.select(records.c.seq).where(records.c.hash == id)).first() is not None


def record_of(row: Row[Any]) -> Record:
    """A table row as a record; TamperedError when its body is no longer JSON."""
    try:
        body = json.loads(row.body)
    except ValueError as error:
        raise TamperedError(
            f"record {row.seq} ({row.kind}, {row.hash[:12]}) was tampered with: its body is not JSON",
            next_step="fivefold govern verify shows all that is wrong",
        ) from error
    return Record(
        seq=row.seq, kind=row.kind, run=row.run, body=body, created_at=row.created_at, prev=row.prev, hash=row.hash
    )


def matches(body: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    """Whether `body` has these values; a mapping as value asks for these keys in a mapping of the body."""
    for name, wanted in filters.items():
        got = body.get(name)
        if isinstance(wanted, Mapping):
            if not isinstance(got, Mapping) or not matches(got, wanted):
                return False
        elif got != wanted:
            return False
    return True


def _where(kind: str | None, run: str | None) -> sa.Select[Any]:
    query = sa.select(records)
    for column, value in ((records.c.kind, kind), (records.c.run, run)):
        if value is not None:
            query = query.where(column == value)
    return query


def _by_key(conn: Connection, kind: str, key: str) -> list[Record]:
    query = sa.select(records).where(records.c.kind == kind, records.c.key == key).order_by(records.c.seq)
    return [record_of(r) for r in conn.execute(query)]
