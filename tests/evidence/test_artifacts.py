"""Content by hash: files and folders come back whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from fivefold.errors import StoreError, TamperedError


def folder_of(tmp_path: Path, **files: str) -> Path:
    root = tmp_path / "adapter"
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_bytes_and_files_share_one_digest(store, tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    a = store.put_artifact(b"abc", name="a", media_type="text/plain", run="r")
    b = store.put_artifact(tmp_path / "f", name="b", media_type="text/plain", run="r")
    assert a.digest == b.digest == hashlib.sha256(b"abc").hexdigest() and a.path == b.path and a.size == 3
    assert store.artifact(a.digest).read_bytes() == b"abc"
    assert [r.body["name"] for r in store.records("artifact", "r")] == ["a", "b"]
    assert not stat.S_IMODE(a.path.stat().st_mode) & 0o222, "kept read-only"


def test_putting_twice_records_once(store):
    for _ in range(2):
        store.put_artifact(b"abc", name="a", media_type="text/plain", run="r")
    assert len(store.records("artifact")) == 1


def test_a_folder_has_one_digest_over_all_files(store, tmp_path):
    root = folder_of(tmp_path, adapter_config="{}", weights__part1="1", weights__part2="2")
    kept = store.put_artifact(root, name="adapter", media_type="application/x-peft")
    again = store.artifact(kept.digest)
    assert sorted(p.relative_to(again).as_posix() for p in again.rglob("*") if p.is_file()) == [
        "adapter_config",
        "weights/part1",
        "weights/part2",
    ]
    assert kept.size == 4 and len(store.records("artifact")[0].body["files"]) == 3
    (root / "weights" / "part2").write_text("3")
    assert store.put_artifact(root, name="adapter", media_type="application/x-peft").digest != kept.digest


@pytest.mark.parametrize("change", ["edit", "remove", "add"])
def test_a_changed_folder_is_noticed_on_reading(store, tmp_path, change):
    kept = store.put_artifact(folder_of(tmp_path, a="1", b="2"), name="n", media_type="t")
    target = kept.path / "a"
    target.chmod(0o644)
    {"edit": lambda: target.write_text("9"), "remove": target.unlink, "add": lambda: (kept.path / "c").write_text("")}[
        change
    ]()
    with pytest.raises(TamperedError, match="was changed"):
        store.artifact(kept.digest)


def test_a_changed_file_is_noticed_and_mended_by_putting_it_again(store):
    kept = store.put_artifact(b"abc", name="n", media_type="t")
    kept.path.chmod(0o644)
    kept.path.write_bytes(b"abd")
    with pytest.raises(TamperedError) as caught:
        store.artifact(kept.digest)
    assert kept.digest in str(caught.value)
    store.put_artifact(b"abc", name="n", media_type="t")
    assert store.artifact(kept.digest).read_bytes() == b"abc"


def test_what_is_not_there_is_said(store, tmp_path):
    with pytest.raises(StoreError, match="no artifact"):
        store.artifact("0" * 64)
    with pytest.raises(StoreError, match="no file or folder"):
        store.put_artifact(tmp_path / "none", name="n", media_type="t")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="is empty"):
        store.put_artifact(tmp_path / "empty", name="n", media_type="t")


@pytest.mark.parametrize("digest", ["../../etc/passwd", "A" * 64, "", "0" * 63])
def test_only_digests_name_artifacts(store, digest):
    with pytest.raises(StoreError, match="not a digest"):
        store.artifact(digest)


def test_links_and_pipes_are_not_taken(store, tmp_path):
    root = folder_of(tmp_path, a="1")
    (root / "link").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="not a plain file"):
        store.put_artifact(root, name="n", media_type="t")
    (root / "link").unlink()
    os.mkfifo(root / "pipe")
    with pytest.raises(StoreError, match="not a plain file"):
        store.put_artifact(root, name="n", media_type="t")
    assert store.records("artifact") == []


def test_no_temporary_file_stays(store, tmp_path):
    store.put_artifact(b"abc", name="n", media_type="t")
    store.put_artifact(folder_of(tmp_path, a="1"), name="n", media_type="t")
    assert not list((store.home / "artifacts").glob(".new-*"))
