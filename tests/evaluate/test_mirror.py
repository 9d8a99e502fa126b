"""The local mirror: nothing unlisted, changed or of another version is read, and what is missing says where it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from _mirrors import use_mirror, write_mirror
from fivefold.errors import DataError
from fivefold.evaluate import data
from fivefold.evaluate.data import Source

SOURCE = Source(
    folder="things",
    files=("a.json", "sub/b.csv"),
    origin="example/things@1234",
    revision="1234",
    licence="MIT",
    hub="example/things on the hub",
)
FILES = {"things": {"a.json": b"[1]", "sub/b.csv": b"x\n1\n"}}


def test_a_listed_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirror(monkeypatch, write_mirror(tmp_path, FILES))
    assert data.read(SOURCE, "sub/b.csv") == b"x\n1\n"
    assert data.missing(SOURCE) == []


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirror(monkeypatch, write_mirror(tmp_path, FILES))
    (tmp_path / "things" / "a.json").write_bytes(b"[2]")
    with pytest.raises(DataError, match="was changed"):
        data.read(SOURCE, "a.json")


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirror(monkeypatch, write_mirror(tmp_path, FILES))
    monkeypatch.setattr(data, "pins", lambda: {"things": {"a.json": "0" * 64}})
    with pytest.raises(DataError, match="another version"):
        data.read(SOURCE, "a.json")
    assert "another version" in data.missing(SOURCE)[0]


def test_without_the_variable_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.VARIABLE, raising=False)
    with pytest.raises(DataError, match="FIVEFOLD_DATA is not set") as caught:
        data.read(SOURCE, "a.json")
    for part in ("export FIVEFOLD_DATA", "example/things@1234", "example/things on the hub"):
        assert part in str(caught.value)
    assert "FIVEFOLD_DATA is not set" in data.missing(SOURCE)[0]


def test_a_file_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirror(monkeypatch, write_mirror(tmp_path, {"things": {"a.json": b"[1]"}}))
    with pytest.raises(DataError, match=r"sub/b\.csv not in the mirror"):
        data.read(SOURCE, "sub/b.csv")
    assert data.missing(SOURCE)[0].startswith("things: sub/b.csv not in the mirror")


def test_a_file_that_the_manifest_does_not_list_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirror(monkeypatch, write_mirror(tmp_path, {"things": {"a.json": b"[1]"}}))
    (tmp_path / "things" / "sub").mkdir()
    (tmp_path / "things" / "sub" / "b.csv").write_bytes(b"x\n1\n")
    with pytest.raises(DataError, match="not in the mirror"):
        data.read(SOURCE, "sub/b.csv")


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirror(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=r"holds no MANIFEST\.json"):
        data.read(SOURCE, "a.json")


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"things": [{"file": "a.json"}]})])
def test_a_broken_manifest_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirror(monkeypatch, tmp_path)
    (tmp_path / data.MANIFEST).write_text(text)
    with pytest.raises(DataError, match="is not a manifest"):
        data.read(SOURCE, "a.json")


def test_a_digest_says_which_files_these_are() -> None:
    from fivefold.evaluate.benchmarks import gsm8k, mmlu

    assert len(gsm8k.benchmark().source.digest) == 64
    assert gsm8k.benchmark().source.digest != mmlu.benchmark().source.digest
