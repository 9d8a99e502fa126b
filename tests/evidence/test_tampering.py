"""Every way of tampering is seen, told apart, and pinned to the record it concerns."""

from __future__ import annotations

import json
import sqlite3

import pytest

from fivefold.errors import TamperedError
from fivefold.evidence import Head, Store, verify
from fivefold.evidence.chain import canonical, hash_of, record_from_json, record_to_json
from fivefold.evidence.signing import public_pem
from fivefold.types import digest


@pytest.fixture
def filled(store):
    """A store with a bit of everything; the key's record is seq 1."""
    store.append("note", {"n": 2}, run="r")
    store.append("note", {"n": 3}, run="r")
    store.finish_step("k", "scan", {"found": 0}, run="r")
    store.append("decision", {"decision": "block"}, run="r", signed=True)
    store.put_artifact(b"weights", name="adapter", media_type="t", run="r")
    store.remember("key", {"model": "m", "text": "no"})
    return store


def kinds(report) -> set[str]:
    return {p.kind for p in report.problems}


def only(report, kind):
    """The one problem of this kind."""
    found = [p for p in report.problems if p.kind == kind]
    assert len(found) == 1, report.problems
    return found[0]


def test_a_whole_store_is_whole(filled):
    report = verify(filled)
    assert report.ok and report.problems == () and report.notes == ()
    assert report.counts == {
        "records": 7,
        "heads": 7,
        "triggers": 3,
        "signatures": 1,
        "steps": 1,
        "artifacts": 1,
        "completions": 1,
    }
    assert report.checked == sum(report.counts.values())


def test_an_edited_body(filled, tamper):
    tamper("UPDATE records SET body = '{\"n\":99}' WHERE seq = 3")
    report = verify(filled)
    problem = only(report, "edited record")
    assert not report.ok and (problem.seq, problem.record_kind) == (3, "note")
    assert problem.id == filled.records()[2].id
    assert "record 3 (note, " in str(problem)
    assert kinds(report) == {"edited record", "missing trigger"}


@pytest.mark.parametrize("body", ['{"n": 3}', '{"n":1,"n":3}', '{"n":3', "[3]", '{"n":3.0}'])
def test_a_body_that_only_looks_the_same(filled, tamper, body):
    tamper(f"UPDATE records SET body = '{body}' WHERE seq = 3")
    assert only(verify(filled), "edited record").seq == 3


@pytest.mark.parametrize(
    "change", ["kind = 'other'", "run = 'other'", "created_at = '2020-01-01'", "key = 'other'", "hash = 'other'"]
)
def test_any_edited_field(filled, tamper, change):
    tamper(f"UPDATE records SET {change} WHERE seq = 3")
    assert 3 in {p.seq for p in verify(filled).problems if p.kind == "edited record"}


def forge(home, seq: int, body: dict, *, relink: bool) -> None:
    """Change a body and its hash; `relink` also recomputes every later record, as one who knows the format would."""
    connection = sqlite3.connect(home / "evidence.db")
    connection.row_factory = sqlite3.Row
    prev = None
    for row in connection.execute("SELECT * FROM records WHERE seq >= ? ORDER BY seq", (seq,)).fetchall():
        content = body if row["seq"] == seq else json.loads(row["body"])
        prev = prev or row["prev"]
        fields = {"seq": row["seq"], "kind": row["kind"], "run": row["run"], "created_at": row["created_at"]}
        made = hash_of(**fields, body=content, prev=prev)
        connection.execute(
            "UPDATE records SET body = ?, hash = ?, prev = ?, key = CASE WHEN kind = 'note' THEN ? ELSE key END "
            "WHERE seq = ?",
            (canonical(content).decode(), made, prev, digest(content), row["seq"]),
        )
        if not relink:
            break
        prev = made
    connection.commit()
    connection.close()


def test_a_body_and_its_hash_edited_together(filled, tamper, home):
    tamper()
    forge(home, 3, {"n": 99}, relink=False)
    report = verify(filled)
    assert only(report, "edited record").seq == 3
    assert only(report, "rewritten history").seq == 3


def test_the_rest_of_the_ledger_rewritten_too(filled, tamper, home):
    """The chain is consistent again: only the signed anchors tell, and they tell from where."""
    tamper()
    forge(home, 3, {"n": 99}, relink=True)
    report = verify(filled)
    assert only(report, "rewritten history").seq == 3
    assert "edited record" not in kinds(report)
    assert "bad signature" in kinds(report), "the decision was signed with its old hash"


def test_a_store_whose_key_record_was_garbled_still_opens_to_be_verified(filled, tamper, home):
    filled.close()
    tamper("UPDATE records SET body = 'garbage' WHERE seq = 1")
    with Store.open(home) as store:
        assert only(verify(store), "edited record").seq == 1


def test_the_whole_database_removed(filled, home):
    filled.close()
    for path in home.glob("evidence.db*"):
        path.unlink()
    with Store.open(home) as store:
        report = verify(store)
    assert "cut tail" in kinds(report) and only(report, "rewritten history").seq == 1


def test_a_deleted_record(filled, tamper):
    gone = filled.records()[2]
    tamper("DELETE FROM records WHERE seq = 3")
    problem = only(verify(filled), "deleted record")
    assert (problem.seq, problem.id, problem.record_kind) == (3, gone.id, "note")


def test_the_first_record_deleted(filled, tamper):
    tamper("DELETE FROM records WHERE seq = 1")
    assert only(verify(filled), "deleted record").seq == 1


def test_a_cut_tail(filled, tamper):
    gone = filled.records()[-2:]
    tamper("DELETE FROM records WHERE seq > 5")
    report = verify(filled)
    cut = [p for p in report.problems if p.kind == "cut tail"]
    assert [(p.seq, p.id, p.record_kind) for p in cut] == [(r.seq, r.id, r.kind) for r in gone]
    assert "deleted record" not in kinds(report)


def test_a_long_cut_is_named_briefly(store, tamper):
    for i in range(40):
        store.append("note", {"n": i})
    tamper("DELETE FROM records WHERE seq > 5")
    assert len([p for p in verify(store).problems if p.kind == "cut tail"]) == 21


def test_a_cut_tail_with_its_anchors_is_seen_by_a_head_kept_elsewhere(filled, tamper, home):
    kept = filled.head()
    tamper("DELETE FROM records WHERE seq > 5")
    lines = (home / "heads.jsonl").read_text().splitlines(keepends=True)
    (home / "heads.jsonl").write_text("".join(lines[:5]))
    assert "cut tail" not in kinds(verify(filled)), "this is what the folder alone cannot tell"
    report = verify(filled, head=kept)
    assert {p.seq for p in report.problems if p.kind == "cut tail"} == {6, 7}


def test_anchors_removed(filled, home):
    (home / "heads.jsonl").unlink()
    report = verify(filled)
    assert report.ok and "7 record(s) after the last anchor" in report.notes[0]


def test_a_forged_anchor(filled, home):
    lines = (home / "heads.jsonl").read_text().splitlines()
    anchor = json.loads(lines[-1])
    anchor["signatures"][0]["sig"] = json.loads(lines[-2])["signatures"][0]["sig"]
    (home / "heads.jsonl").write_text("\n".join([*lines[:-1], json.dumps(anchor)]) + "\n")
    problem = only(verify(filled), "bad signature")
    assert "line 7 of heads.jsonl" in problem.message


def test_a_torn_last_anchor_is_a_killed_run_not_tampering(filled, home):
    with (home / "heads.jsonl").open("ab") as file:
        file.write(b'{"payload":"abc')
    assert verify(filled).ok
    filled.append("note", {"n": "after"})
    assert verify(filled).ok


def test_missing_triggers(filled, tamper):
    tamper()
    report = verify(filled)
    assert kinds(report) == {"missing trigger"} and len(report.problems) == 3


def test_a_changed_artifact(filled):
    artifact = filled.records("artifact")[0]
    path = filled.artifact(artifact.body["digest"])
    path.chmod(0o644)
    path.write_bytes(b"other weights")
    problem = only(verify(filled), "changed artifact")
    assert (problem.seq, problem.id) == (artifact.seq, artifact.id) and "adapter" in problem.message
    with pytest.raises(TamperedError):
        filled.artifact(artifact.body["digest"])


def test_a_missing_artifact(filled):
    artifact = filled.records("artifact")[0]
    filled.artifact(artifact.body["digest"]).unlink()
    assert only(verify(filled), "missing artifact").seq == artifact.seq


def test_a_changed_answer(filled, tamper):
    tamper('UPDATE completions SET value = \'{"model":"m","text":"yes"}\'')
    assert "key" in only(verify(filled), "changed answer").message
    with pytest.raises(TamperedError, match="remembered answer"):
        filled.cached(["key"])


def test_a_signature_that_another_key_made(filled, tmp_path):
    """Appended by the book, so the chain holds; but who signed is not whom the store knows."""
    with Store.open(tmp_path / "stranger") as stranger:
        decision = filled.records("decision")[0]
        subjects = {"decision/5": decision.hash}
        from fivefold.evidence import sign_statement

        envelope = sign_statement(subjects, "urn:x", record_to_json(decision), stranger.signer)
    filled.append("signature", {"record": decision.hash, "keyid": filled.signer.keyid, "envelope": envelope})
    problem = only(verify(filled), "bad signature")
    assert problem.record_kind == "signature" and problem.seq == 8


def test_a_signature_moved_to_another_record(filled):
    envelope = filled.envelope(filled.records("decision")[0].id)
    other = filled.append("decision", {"decision": "ship"}, run="r")
    filled.append("signature", {"record": other.hash, "keyid": filled.signer.keyid, "envelope": envelope})
    assert "signs another record" in only(verify(filled), "bad signature").message


@pytest.mark.parametrize("envelope", [{}, {"payload": "!!", "payloadType": "x", "signatures": []}, "text", None, 5])
def test_a_signature_that_is_none(filled, envelope):
    filled.append("signature", {"record": "0" * 64, "envelope": envelope})
    assert only(verify(filled), "bad signature").seq == 8


def test_a_result_without_its_digest(filled):
    filled.append("step", {"key": "k2", "name": "scan", "status": "done", "result": {"n": 1}, "outcomes": "0" * 64})
    assert only(verify(filled), "changed result").seq == 8


def test_a_pinned_key_must_be_the_one_that_signed(filled, tmp_path):
    assert verify(filled, public_key=public_pem(filled.signer.public_key)).ok
    with Store.open(tmp_path / "stranger") as stranger:
        report = verify(filled, public_key=public_pem(stranger.signer.public_key))
    assert "bad signature" in kinds(report)


def test_records_appended_while_verifying_are_not_taken_for_a_cut(filled, monkeypatch):
    from fivefold.evidence import verify as module_function
    from fivefold.evidence.heads import Heads

    read = Heads.lines

    def lines_then_append(self):
        found = list(read(self))
        filled.append("note", {"late": True})
        return iter(found)

    monkeypatch.setattr(Heads, "lines", lines_then_append)
    assert module_function(filled).ok


def test_records_round_trip_as_json(filled):
    for record in filled.records():
        assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record


def test_a_head_is_what_it_says(filled):
    last = filled.records()[-1]
    assert filled.head() == Head(seq=last.seq, hash=last.hash, at=last.created_at, kind=last.kind)
