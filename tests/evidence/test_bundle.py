"""A bundle verifies by itself, shows tampering, and harms nobody who opens it."""

from __future__ import annotations

import json
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from fivefold.errors import StoreError
from fivefold.evidence import Store, export_bundle, verify_bundle
from fivefold.evidence.bundle import Limits, closure
from fivefold.evidence.signing import public_pem


@pytest.fixture
def filled(store, tmp_path, measurement):
    other = store.put_artifact(b"of another run", name="shared", media_type="t", run="r0")
    store.append("note", {"private": True}, run="r0")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_text("w")
    (tmp_path / "adapter" / "config").write_text("{}")
    adapter = store.put_artifact(tmp_path / "adapter", name="adapter", media_type="t", run="r1")
    m = store.add_measurement(measurement())
    store.finish_step("k", "patch", {"adapter": adapter.digest, "probe": other.digest}, run="r1")
    store.append("decision", {"closure": {"m": m.id}}, run="r1", signed=True)
    store.append("note", {"later": True}, run="r2")
    return store


@pytest.fixture
def bundle(filled, tmp_path) -> Path:
    return export_bundle(filled, "r1", tmp_path / "out" / "r1.zip")


def rewritten(bundle: Path, change) -> Path:
    """The bundle with its entries passed through `change(name, data) -> data | None`."""
    out = bundle.with_name("changed.zip")
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            data = change(name, source.read(name))
            if data is not None:
                target.writestr(name, data)
    return out


def kinds(report) -> set[str]:
    return {p.kind for p in report.problems}


def test_a_bundle_verifies_without_the_store(bundle, filled):
    pem = public_pem(filled.signer.public_key)
    filled.close()
    report = verify_bundle(bundle, public_key=pem)
    assert report.ok, report.problems
    assert report.counts["artifacts"] == 2 and report.counts["signatures"] == 2 and report.counts["steps"] == 1
    assert report.notes == ()


def test_without_a_pinned_key_nobody_vouches(bundle):
    report = verify_bundle(bundle)
    assert report.ok and "own key" in report.notes[0]


def test_another_key_is_not_the_owners(bundle, tmp_path):
    with Store.open(tmp_path / "stranger") as stranger:
        report = verify_bundle(bundle, public_key=public_pem(stranger.signer.public_key))
    assert kinds(report) == {"bad signature"}


def test_it_holds_the_run_and_what_the_run_names_and_no_more(filled, bundle):
    chosen = closure(filled, "r1")
    assert {r.kind for r in chosen} == {"key", "artifact", "measurement", "step", "decision", "signature"}
    assert not [r for r in chosen if r.body.get("private") or r.body.get("later")]
    with zipfile.ZipFile(bundle) as archive:
        assert b"private" not in archive.read("records.jsonl")
        assert len([n for n in archive.namelist() if n.startswith("artifacts/")]) == 3


def test_large_artifacts_are_left_out_and_said_to_be(filled, tmp_path):
    out = export_bundle(filled, "r1", tmp_path / "small.zip", limits=Limits(artifact=5))
    report = verify_bundle(out)
    assert report.ok and any("shared" in note and "left out" in note for note in report.notes)


def test_an_unknown_run(filled, tmp_path):
    with pytest.raises(StoreError, match="no records of run"):
        export_bundle(filled, "nothing", tmp_path / "x.zip")
    assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.glob(".bundle*"))


def test_a_place_that_cannot_be_written(filled, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        export_bundle(filled, "r1", tmp_path / "file" / "x.zip")


@pytest.mark.parametrize(
    "name, kind",
    [("records.jsonl", "changed artifact"), ("links.jsonl", "changed artifact"), ("manifest.json", "bad signature")],
)
def test_an_edited_file(bundle, name, kind):
    changed = rewritten(bundle, lambda n, d: d.replace(b"2", b"3") if n == name else d)
    assert kind in kinds(verify_bundle(changed))


def test_a_changed_artifact(bundle):
    changed = rewritten(bundle, lambda n, d: b"x" if n.endswith("/weights") else d)
    report = verify_bundle(changed)
    assert kinds(report) == {"changed artifact"} and "weights" in report.problems[0].message


def test_a_removed_and_an_added_file(bundle):
    assert kinds(verify_bundle(rewritten(bundle, lambda n, d: None if n.endswith("/weights") else d))) == {
        "missing artifact"
    }
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("artifacts/extra", b"x")
    report = verify_bundle(bundle)
    assert kinds(report) == {"bad bundle"} and "not in the manifest" in report.problems[0].message


@pytest.mark.parametrize("missing", ["manifest.json", "manifest.dsse.json", "public_key.pem"])
def test_a_missing_part(bundle, missing):
    assert kinds(verify_bundle(rewritten(bundle, lambda n, d: None if n == missing else d))) == {"bad bundle"}


def test_a_record_edited_by_the_one_who_holds_the_key(filled, bundle):
    """Signed anew, so the envelope holds; but the record does not have its hash."""
    from fivefold.evidence.bundle import MANIFEST
    from fivefold.types import canonical, digest_bytes

    with zipfile.ZipFile(bundle) as archive:
        records, manifest = archive.read("records.jsonl"), json.loads(archive.read("manifest.json"))
    records = records.replace(b'"estimate":0.5', b'"estimate":0.1')
    manifest["files"]["records.jsonl"] = {"sha256": digest_bytes(records), "size": len(records)}
    signed = {
        "records.jsonl": records,
        "manifest.json": canonical(manifest),
        "manifest.dsse.json": canonical(filled.signer.sign(MANIFEST, canonical(manifest))),
    }
    report = verify_bundle(rewritten(bundle, lambda n, d: signed.get(n, d)))
    assert kinds(report) == {"edited record"} and report.problems[0].record_kind == "measurement"


def hostile(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for name, data in entries:
            archive.writestr(name, data)
    return path


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "entries, says",
    [
        ([("../../etc/cron.d/x", b"x")], "points outside"),
        ([("/etc/passwd", b"x")], "points outside"),
        ([("artifacts/a/../../x", b"x")], "points outside"),
        ([("artifacts\\..\\x", b"x")], "points outside"),
        ([("C:/x", b"x")], "points outside"),
        ([("artifacts/", b"")], "not a plain file"),
        ([(link("artifacts/x"), b"/etc/passwd")], "not a plain file"),
        ([("a", b"1"), ("a", b"2")], "same name"),
        ([("artifacts/zeros", bytes(50_000_000))], "a bomb"),
        ([(f"f{i}", b"") for i in range(30)], "entries"),
        ([("records.jsonl", b"x" * 3000)], "larger than"),
        ([("artifacts/x", bytes(range(256)) * 30)], "unpacks to more"),
    ],
)
def test_hostile_zips_are_refused_from_their_directory(tmp_path, entries, says):
    path = hostile(tmp_path / "hostile.zip", entries)
    limits = Limits(files=20, text=2000, total=60_000_000 if says == "a bomb" else 5000)
    report = verify_bundle(path, limits=limits)
    assert not report.ok and says in report.problems[0].message, report.problems
    assert {p.name for p in tmp_path.iterdir()} == {"hostile.zip"}, "nothing was unpacked"


def test_a_size_that_lies(bundle):
    """The directory declares a small entry; what follows it is not read beyond that."""
    data = bytearray(bundle.read_bytes())
    at = data.find(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 5)
    bundle.write_bytes(bytes(data))
    assert "bad bundle" in kinds(verify_bundle(bundle))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(100)])
def test_what_is_no_zip(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    assert kinds(verify_bundle(tmp_path / "x.zip")) == {"bad bundle"}


def test_deeply_nested_json_is_a_problem_not_a_crash(bundle):
    changed = rewritten(bundle, lambda n, d: b"[" * 200_000 if n == "manifest.dsse.json" else d)
    assert kinds(verify_bundle(changed)) == {"bad bundle"}


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_bundle(bundle, cut):
    bundle.write_bytes(bundle.read_bytes()[: int(bundle.stat().st_size * cut)])
    assert not verify_bundle(bundle).ok


def test_no_file(tmp_path):
    with pytest.raises(StoreError):
        verify_bundle(tmp_path / "none.zip")


def test_every_flipped_byte_is_noticed_or_harmless(bundle):
    """Flip single bytes over the whole file: no crash, and never a whole report on changed content."""
    original = bundle.read_bytes()
    with zipfile.ZipFile(bundle) as archive:
        contents = {n: archive.read(n) for n in archive.namelist()}
    for at in range(0, len(original), max(1, len(original) // 150)):
        bundle.write_bytes(original[:at] + bytes([original[at] ^ 0xFF]) + original[at + 1 :])
        if verify_bundle(bundle).ok:
            with zipfile.ZipFile(bundle) as archive:
                assert {n: archive.read(n) for n in archive.namelist()} == contents
