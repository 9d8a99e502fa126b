"""The same ledger on PostgreSQL. Runs where the server's programs and the driver are installed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fivefold.evidence import Store, verify

psycopg = pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
if not (shutil.which("initdb") and shutil.which("pg_ctl")):
    pytest.skip("the PostgreSQL server is not installed", allow_module_level=True)


def as_nobody() -> None:
    """PostgreSQL refuses to run as root."""
    if os.getuid() == 0:
        os.setgid(65534), os.setuid(65534)


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """A server of our own on a Unix socket, without network."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        root.chmod(0o777)

        def call(*command: str) -> None:
            subprocess.run(command, preexec_fn=as_nobody, check=True, capture_output=True, cwd="/")

        call("initdb", "-D", f"{root}/data", "-A", "trust", "-U", "fivefold", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={root} -c fsync=off"
        call("pg_ctl", "-D", f"{root}/data", "-w", "-l", f"{root}/log", "-o", options, "start")
        try:
            yield root
        finally:
            call("pg_ctl", "-D", f"{root}/data", "-m", "immediate", "stop")


@pytest.fixture
def url(server: Path, request: pytest.FixtureRequest) -> str:
    name = f"t{abs(hash(request.node.name))}"
    with psycopg.connect(host=str(server), user="fivefold", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://fivefold@/{name}?host={server}"


def test_records_measurements_steps_and_answers(url, home, measurement, finding):
    with Store.open(home, url=url) as store:
        record = store.append("note", {"text": "가 \u0000 €", "n": 1.5}, run="r", signed=True)
        assert store.get(record.id[:8]) == record
        m = store.add_measurement(measurement())
        assert store.add_measurement(measurement()) == m and store.measurements() == [m]
        store.add_finding(finding)
        assert store.update_finding("F-1", "patched", evidence=m.id, reason="x").status == "patched"
        store.finish_step("k", "scan", {"n": 1})
        store.remember("k", {"model": "m"}), store.remember("k", {"model": "other"})
        assert store.step("k") is not None and store.cached(["k"]) == {"k": {"model": "m"}}
        assert verify(store).ok
    with Store.open(home, url=url) as store:
        assert store.get(record.id) == record and verify(store).ok
    assert not (home / "evidence.db").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET run = 'x'",
        "DELETE FROM records",
        "TRUNCATE records",
        "INSERT INTO records VALUES (9, 'x', '', '', '{}', 'now', 'p', 'h')",
    ],
)
def test_the_server_refuses_to_change_the_past(url, home, server, statement):
    with Store.open(home, url=url) as store:
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            connection.execute(statement)
        assert verify(store).ok


def test_tampering_is_seen(url, home):
    with Store.open(home, url=url) as store:
        store.append("note", {"n": 1}), store.append("note", {"n": 2})
        with psycopg.connect(url) as connection:
            connection.execute("ALTER TABLE records DISABLE TRIGGER ALL")
            connection.execute("UPDATE records SET body = '{\"n\":9}' WHERE seq = 2")
            connection.execute("DELETE FROM records WHERE seq = 3")
        report = verify(store)
        assert {p.kind for p in report.problems} == {"edited record", "cut tail", "missing trigger"}


def append_many(home: str, url: str, name: str) -> None:
    with Store.open(home, url=url) as store:
        for i in range(15):
            store.append("note", {"by": name, "i": i})
            store.remember(f"same-{i}", {"i": i})


def test_processes_do_not_fork_the_chain(url, home):
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=append_many, args=(str(home), url, f"p{i}")) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    with Store.open(home, url=url) as store:
        assert verify(store).ok and len(store.records("note")) == 45 and store.cache.count() == 15
