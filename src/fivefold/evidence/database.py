"""The database under the ledger: SQLite in WAL mode, or PostgreSQL by URL. Opening it brings its schema up to date."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fivefold.errors import MissingExtraError, StoreError
from fivefold.evidence.schema import REVISIONS, VERSION_TABLE

LOCK_SECONDS = 60.0
"""How long a writer waits for another process before it gives up."""

ADVISORY_LOCK = 0x5F1FEF01D
"""PostgreSQL: the number of the lock under which the ledger grows."""


class Database:
    """Connections and transactions. `durable` ones reach the disk before they return; the cache's may lose the last
    moments on a power cut (never on a killed process)."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        if not self.sqlite and self.url.get_backend_name() != "postgresql":
            raise StoreError(
                "this kind of database is not supported", expected="sqlite:///… or postgresql://…", got=_shown(self.url)
            )
        self._connect()

    def _connect(self) -> None:
        self._process = os.getpid()
        self._durable = self._engine("FULL")
        self._fast = self._engine("NORMAL") if self.sqlite else self._durable

    def _own(self) -> None:
        """After a fork, connections of one's own: a connection that two processes use corrupts what both write."""
        if self._process != os.getpid():
            self._durable.dispose(close=False)
            self._fast.dispose(close=False)
            self._connect()

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that is alone in writing from its first statement on."""
        self._own()
        with self._errors("written"):
            engine = self._durable if durable else self._fast
            with engine.connect().execution_options(fivefold_write=True) as conn, conn.begin():
                if durable and not self.sqlite:
                    conn.execute(sa.text("SELECT pg_advisory_xact_lock(:n)"), {"n": ADVISORY_LOCK})
                yield conn

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout."""
        self._own()
        with self._errors("read"), self._durable.connect() as conn, conn.begin():
            yield conn

    def migrate(self) -> None:
        """Create or upgrade the schema under the write lock; StoreError when it is not ours or newer than this code."""
        if self._revision() == REVISIONS[-1]:
            return
        if self.sqlite:
            self._switch_to_wal()
        with self.write() as conn:
            if _revision_of(conn) != REVISIONS[-1]:
                _upgrade(conn)

    def close(self) -> None:
        """Release every connection."""
        self._durable.dispose()
        self._fast.dispose()

    def _revision(self) -> str | None:
        with self.read() as conn:
            found = _revision_of(conn)
            if found is None and self.sqlite and (others := sa.inspect(conn).get_table_names()):
                raise StoreError(
                    f"{_shown(self.url)} is a database, but not an evidence store",
                    got=f"tables {', '.join(others[:5])}",
                    next_step="choose another folder with FIVEFOLD_HOME",
                )
        if found is not None and found not in REVISIONS:
            raise StoreError(
                f"{_shown(self.url)} was written by a newer fivefold",
                expected=f"schema {REVISIONS[-1]} or older",
                got=f"schema {found}",
                next_step="upgrade fivefold, or choose another folder with FIVEFOLD_HOME",
            )
        return found

    def _switch_to_wal(self) -> None:
        """The switch needs the file for itself for a moment and does not wait, so it is tried until it succeeds."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                with self._errors("prepared"):
                    raw = self._durable.raw_connection()
                    try:
                        raw.cursor().execute("PRAGMA journal_mode=WAL")
                        return
                    finally:
                        raw.close()
            except StoreError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _engine(self, synchronous: str) -> Engine:
        if not self.sqlite:
            return self._server_engine()
        engine = sa.create_engine(self.url, connect_args={"timeout": LOCK_SECONDS})

        @sa.event.listens_for(engine, "connect")
        def connected(connection: Any, _: object) -> None:
            connection.isolation_level = None  # the driver's own transactions start too late to exclude other writers
            connection.execute(f"PRAGMA synchronous={synchronous}")

        @sa.event.listens_for(engine, "begin")
        def begun(conn: Connection) -> None:
            write = conn.get_execution_options().get("fivefold_write")
            conn.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

        return engine

    def _server_engine(self) -> Engine:
        url = self.url if "+" in self.url.drivername else self.url.set(drivername="postgresql+psycopg")
        try:
            return sa.create_engine(url, pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "psycopg", "postgres") from error

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            raise store_error(error, _shown(self.url), doing) from error


def store_error(error: Exception, where: str, doing: str) -> StoreError:
    """What went wrong with the disk or database, in words that say what to do."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = str(cause).strip().split("\n")[0]
    code = getattr(cause, "errno", None)
    for words, codes, what, next_step in _CAUSES:
        if code in codes or any(w in text.lower() for w in words):
            return StoreError(f"{where} cannot be {doing}: {what}", got=text, next_step=next_step)
    return StoreError(f"{where} cannot be {doing}", got=f"{type(cause).__name__}: {text}")


_CAUSES: tuple[tuple[tuple[str, ...], tuple[int, ...], str, str], ...] = (
    (("disk is full", "no space"), (errno.ENOSPC, errno.EDQUOT), "no space is left", "free some space and run again"),
    (
        ("readonly", "read-only", "unable to open", "permission denied"),
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "no permission",
        "check who owns the folder, or choose another with FIVEFOLD_HOME",
    ),
    (
        ("not a database", "malformed"),
        (),
        "it is not a readable database",
        "restore the file from a copy, or choose another folder with FIVEFOLD_HOME",
    ),
    (("locked", "busy"), (), "another process keeps it locked", "wait for that process to end, then run again"),
    (
        ("connection refused", "could not connect"),
        (),
        "the server does not answer",
        "check the address and that it runs",
    ),
)


def _revision_of(conn: Connection) -> str | None:
    if not sa.inspect(conn).has_table(VERSION_TABLE):
        return None
    return conn.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def _upgrade(conn: Connection) -> None:
    # Imported here: Alembic is needed when a schema changes, not each time a store is opened.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = conn
    command.upgrade(config, "head")


def _shown(url: sa.URL) -> str:
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
