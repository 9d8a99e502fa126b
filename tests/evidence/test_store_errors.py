"""What can go wrong with a disk or database is said in words that help."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fivefold.errors import MissingExtraError, StoreError
from fivefold.evidence import Store
from fivefold.evidence.schema import REVISIONS


def test_a_file_that_is_no_database(home):
    home.mkdir()
    (home / "evidence.db").write_bytes(b"this is a text, not a database" * 100)
    with pytest.raises(StoreError, match="not a readable database") as caught:
        Store.open(home)
    assert "FIVEFOLD_HOME" in str(caught.value)


def test_a_database_of_something_else(home):
    home.mkdir()
    connection = sqlite3.connect(home / "evidence.db")
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.commit()
    with pytest.raises(StoreError, match="not an evidence store") as caught:
        Store.open(home)
    assert "recipes" in str(caught.value)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)], "it is left alone"


def test_a_newer_schema(home):
    Store.open(home).close()
    connection = sqlite3.connect(home / "evidence.db")
    connection.execute("UPDATE fivefold_schema SET version_num = '9999'")
    connection.commit()
    with pytest.raises(StoreError, match="newer fivefold") as caught:
        Store.open(home)
    assert "9999" in str(caught.value) and REVISIONS[-1] in str(caught.value)


def test_a_full_disk(store):
    with store.database.read() as conn:
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar()
    raw = store.database._durable.raw_connection()
    raw.cursor().execute(f"PRAGMA max_page_count = {pages}")
    raw.close()
    before = store.head()
    with pytest.raises(StoreError, match="no space is left") as caught:
        store.append("note", {"text": "x" * 100_000})
    assert "free some space" in str(caught.value)
    assert store.head() == before


def test_a_full_disk_while_an_artifact_is_written(store, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space is left"):
        store.put_artifact(b"data", name="n", media_type="text/plain")
    assert not [p for p in (store.home / "artifacts").rglob("*") if p.is_file()], "nothing half-written stays"


def test_no_store_is_made_where_one_is_only_looked_for(home):
    with pytest.raises(StoreError, match="no evidence store"):
        Store.open(home, create=False)
    assert not home.exists()
    Store.open(home).close()
    Store.open(home, create=False).close()


def test_home_is_a_file(tmp_path: Path):
    (tmp_path / "home").write_text("")
    with pytest.raises(StoreError, match="cannot be created"):
        Store.open(tmp_path / "home")


@contextmanager
def without_rights() -> Iterator[None]:
    """The tests may run as root, whom no permission stops."""
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder whose parents everybody may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        Path(folder, "home").exists() and Path(folder, "home").chmod(0o755)


def test_no_permission_to_create(open_folder: Path):
    open_folder.chmod(0o555)
    with without_rights(), pytest.raises(StoreError, match="no permission") as caught:
        Store.open(open_folder / "home")
    assert "FIVEFOLD_HOME" in str(caught.value)


def test_no_permission_to_write(open_folder: Path):
    home = open_folder / "home"
    Store.open(home).close()
    for path in (home / "keys", home / "keys" / "signing.pem"):
        os.getuid() == 0 and os.chown(path, 65534, 65534)
    (home / "evidence.db").chmod(0o444)
    home.chmod(0o555)
    with without_rights(), pytest.raises(StoreError, match="no permission"), Store.open(home) as store:
        store.append("note", {})


def test_anchors_that_cannot_be_written(store, home):
    (home / "heads.jsonl").unlink()
    (home / "heads.jsonl").mkdir()
    with pytest.raises(StoreError, match=r"heads\.jsonl cannot be written"):
        store.append("note", {})


def test_another_process_holds_the_lock(home, monkeypatch):
    Store.open(home).close()
    monkeypatch.setattr("fivefold.evidence.database.LOCK_SECONDS", 0.2)
    other = sqlite3.connect(home / "evidence.db", isolation_level=None)
    with Store.open(home) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process keeps it locked"):
            store.append("note", {})
        other.execute("ROLLBACK")
        store.append("note", {})


def test_another_kind_of_database(tmp_path):
    with pytest.raises(StoreError, match="not supported"):
        Store.open(tmp_path, url="mysql://user:secret@host/db")


def test_a_password_is_never_shown(tmp_path):
    try:
        Store.open(tmp_path, url="postgresql://user:secret@127.0.0.1:1/db")
    except (StoreError, MissingExtraError) as error:
        assert "secret" not in str(error)
    else:
        pytest.fail("nothing listens there")
