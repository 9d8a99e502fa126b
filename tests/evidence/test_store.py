"""Records, look-ups, steps, measurements, findings, versions: what goes in comes out, once, and nothing else does."""

from __future__ import annotations

import json
import math
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fivefold.errors import StoreError
from fivefold.evidence import Store, verify
from fivefold.evidence.chain import GENESIS, rehash
from fivefold.types import TRANSITIONS, ModelVersion, digest


def test_a_new_store_is_private_and_in_wal_mode(store, home):
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert sqlite3.connect(home / "evidence.db").execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert stat.S_IMODE((home / "keys" / "signing.pem").stat().st_mode) == 0o600


def test_records_are_chained_and_come_back_as_they_were(store):
    body = {"text": "가나다 €", "numbers": [1, 2.5, -0.0, None, True], "nested": {"b": 1, "a": 2}}
    first, second = store.append("note", body, run="r"), store.append("note", {"n": 2})
    assert second.prev == first.hash and second.seq == first.seq + 1
    assert rehash(first) == first.hash == first.id
    assert store.get(first.id) == first and store.get(first.id[:10].upper()) == first
    assert dict(store.get(first.id).body) == body
    assert store.records()[0].prev == GENESIS


def test_reopening_finds_what_was_written(home):
    with Store.open(home) as store:
        record = store.append("note", {"n": 1}, run="r", signed=True)
        head = store.head()
    with Store.open(str(home)) as store:
        assert store.get(record.id) == record
        assert store.head() == head, "opening a store twice adds nothing"


def test_home_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "elsewhere"))
    with Store.open() as store:
        assert store.home == tmp_path / "elsewhere"


def test_records_are_selected_by_kind_and_run(store):
    a = store.append("x", {"n": 1}, run="r1")
    b = store.append("x", {"n": 2}, run="r2")
    c = store.append("y", {"n": 3}, run="r1")
    assert store.records("x") == [a, b]
    assert store.records(run="r1") == [a, c]
    assert store.records("x", "r1") == [a]
    assert store.records("none") == []


def test_pages_of_records_join_seamlessly(store, monkeypatch):
    monkeypatch.setattr("fivefold.evidence.ledger.PAGE", 3)
    made = [store.append("x", {"n": i}) for i in range(10)]
    assert store.records("x") == made
    assert store.latest("x", n=1) == made[1]


def test_latest_matches_fields_and_slices(store):
    store.append("x", {"n": 1, "slice": {"language": "ko", "attack": "a"}})
    newer = store.append("x", {"n": 1, "slice": {"language": "ko", "attack": "b"}})
    store.append("x", {"n": 1, "slice": {"language": "ja"}})
    assert store.latest("x", n=1, slice={"language": "ko"}) == newer
    assert store.latest("x", n=2) is None


@pytest.mark.parametrize("text", ["", "abc", "zzzzzzzz", "'; DROP TABLE records"])
def test_get_refuses_what_is_not_an_id(store, text):
    with pytest.raises(StoreError, match="not a record id"):
        store.get(text)


def test_get_says_when_nothing_is_there(store):
    with pytest.raises(StoreError, match="no record starts with"):
        store.get("0" * 64)


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), "\ud800"])
def test_what_json_cannot_say_is_refused_and_leaves_nothing(store, value):
    before = store.head()
    with pytest.raises(StoreError, match="cannot be stored"):
        store.append("note", {"v": value})
    assert store.head() == before


@settings(max_examples=30, deadline=None)
@given(
    body=st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=5,
    )
)
def test_any_json_object_survives(tmp_path_factory, body):
    with Store.open(tmp_path_factory.getbasetemp() / "any") as store:
        record = store.append("note", body)
        again = store.get(record.id)
        assert again == record and rehash(again) == record.hash
        assert json.loads(json.dumps(dict(again.body))) == json.loads(json.dumps(body))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET body = '{}' WHERE seq = 1",
        "DELETE FROM records WHERE seq = 1",
        "INSERT OR REPLACE INTO records SELECT seq, 'x', run, key, body, '', prev, hash FROM records WHERE seq = 1",
        "INSERT OR REPLACE INTO records SELECT seq + 1, kind, '', key, body, '', hash, hash FROM records WHERE seq = 2",
        "INSERT INTO records VALUES (9, 'x', '', '', '{}', 'now', 'p', 'h')",
        "INSERT INTO records VALUES (3, 'x', '', '', '{}', 'now', 'not the last hash', 'h')",
    ],
)
def test_the_database_itself_refuses_to_change_the_past(store, home, statement):
    store.append("note", {"n": 1})
    connection = sqlite3.connect(home / "evidence.db")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()
    assert verify(store).ok


def test_steps_are_found_once_done(store):
    assert store.step("k1") is None
    store.append("step", {"key": "k1", "name": "scan", "status": "failed", "result": {}, "outcomes": ""})
    assert store.step("k1") is None, "a step that failed is not done"
    store.finish_step("k1", "scan", {"n": 1}, run="r1")
    second = store.finish_step("k1", "scan", {"n": 2}, run="r2")
    assert store.step("k1") == second
    assert second.body["result"] == {"n": 2} and second.body["outcomes"] == digest({"n": 2})
    assert store.step("k2") is None


def test_measurements_get_their_records_id_and_are_kept_once(store, measurement):
    m = store.add_measurement(measurement())
    again = store.add_measurement(measurement())
    assert again == m and m.id == store.records("measurement")[0].id
    assert store.measurements() == [m]
    assert store.add_measurement(measurement(run="r2")).id != m.id, "another run measures for itself"


def test_measurements_are_filtered_and_the_last_of_a_kind_counts(store, measurement):
    old = store.add_measurement(measurement(estimate=0.4, slice={"language": "ko"}))
    new = store.add_measurement(measurement(estimate=0.3, slice={"language": "ko"}))
    other = store.add_measurement(measurement(slice={"language": "ja"}))
    corrected = store.add_measurement(measurement(estimate=0.2, slice={"language": "ko"}, corrects=new.id))
    assert store.measurements("r1") == [new, other, corrected]
    assert store.measurements("r1", history=True) == [old, new, other, corrected]
    assert store.measurements(slice={"language": "ja"}) == [other]
    assert store.measurements(metric="none") == []
    assert store.measurements("r9") == []


def test_a_measurement_without_estimate_stays_without(store, measurement):
    m = store.add_measurement(measurement(estimate=None, low=None, high=None, n_scored=0, n_errored=3))
    assert store.measurements()[0] == m and m.estimate is None


def test_a_finding_lives_through_its_states(store, finding):
    evidence = store.append("note", {"what": "replay"})
    added = store.add_finding(finding)
    assert added.status == "open" and added.history == (("open", "", "found"),)
    patched = store.update_finding("F-1", "patched", evidence=evidence.id, reason="LoRA", patches=("p" * 64,))
    assert patched.patches == ("p" * 64,)
    store.update_finding("F-1", "verified", evidence=evidence.id, reason="replay fails")
    assert store.update_finding("F-1", cause={"layer": 12}).status == "verified"
    closed = store.update_finding("F-1", "closed", reason="gate passed")
    assert [state for state, _, _ in closed.history] == ["open", "patched", "verified", "closed"]
    assert store.findings() == [closed] == store.findings(run="r1", status="closed")
    assert store.findings(status="open") == []
    assert len(store.records("finding")) == 5, "each state is a record of its own"


@pytest.mark.parametrize("status", sorted(TRANSITIONS))
def test_no_transition_but_the_allowed_ones(store, finding, status):
    store.add_finding(finding)
    if status in TRANSITIONS["open"] or status == "open":
        assert store.update_finding("F-1", status, reason="x").status == status
    else:
        with pytest.raises(StoreError, match="cannot go from open"):
            store.update_finding("F-1", status, reason="x")


def test_a_state_rests_on_a_reason_and_on_evidence_that_exists(store, finding):
    store.add_finding(finding)
    with pytest.raises(StoreError, match="without a reason"):
        store.update_finding("F-1", "patched")
    with pytest.raises(StoreError, match="no such record"):
        store.update_finding("F-1", "patched", evidence="a" * 64, reason="x")
    with pytest.raises(StoreError, match="no finding"):
        store.update_finding("F-2", "patched", reason="x")
    with pytest.raises(StoreError, match="not a change"):
        store.update_finding("F-1", history=())
    assert store.findings()[0].status == "open"


def test_a_known_finding_is_sighted_not_doubled(store, finding):
    from dataclasses import replace

    store.add_finding(finding)
    store.update_finding("F-1", "patched", reason="x")
    again = store.add_finding(replace(finding, run="r2"))
    store.add_finding(replace(finding, run="r2"))
    assert again.status == "patched" and len(store.findings()) == 1
    assert store.findings(run="r2") == [again] and len(store.records("sighting")) == 1
    with pytest.raises(StoreError, match="is new"):
        store.add_finding(replace(finding, id="F-2", status="closed"))


def test_versions_know_their_parents(store):
    base = ModelVersion(id="b" * 64, name="smollm2", kind="base", source="smollm2")
    patched = ModelVersion(
        id="c" * 64, name="smollm2+p", kind="patched", source="smollm2", parent=base.id, artifacts={"adapter": "d" * 64}
    )
    with pytest.raises(StoreError, match="add the parent first"):
        store.add_version(patched)
    store.add_version(base), store.add_version(patched), store.add_version(base)
    assert store.versions() == [base, patched] and len(store.records("version")) == 2


def test_remembered_answers_come_back_by_key(store):
    store.remember("k1", {"model": "m1", "text": "a"})
    store.remember("k1", {"model": "m1", "text": "another"})
    store.cache.remember_all({f"x{i}": {"model": "m2", "text": str(i)} for i in range(1203)})
    assert store.cached(["k1", "nothing"]) == {"k1": {"model": "m1", "text": "a"}}, "the first answer stays"
    assert len(store.cached([f"x{i}" for i in range(2000)])) == 1203
    assert store.cached([]) == {}
    assert store.cache.forget("m2") == 1203 and store.cache.count() == 1


def test_append_once_is_once_per_run_and_body(store):
    a = store.append_once("plan", {"n": 1}, run="r")
    assert store.append_once("plan", {"n": 1}, run="r") == a
    assert store.append_once("plan", {"n": 1}, run="s") != a
    assert store.append_once("plan", {"n": 2}, run="r") != a


def test_importing_evidence_brings_no_torch_and_no_inspect():
    heavy = ("torch", "inspect_ai", "alembic", "numpy")
    code = f"import sys, fivefold.evidence; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_open_makes_folders_on_the_way(tmp_path: Path):
    with Store.open(tmp_path / "a" / "b") as store:
        assert (tmp_path / "a" / "b" / "evidence.db").is_file() and store.head() is not None
