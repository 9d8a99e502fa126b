"""Public data sets from a local mirror: found through `FIVEFOLD_DATA`, checked by hash before a byte of them is used.

The mirror is a folder with a sub-folder for each data set and a `MANIFEST.json`: {folder: [{file, sha256, source, …}]}.
Nothing is fetched from here: what is missing is an error that says where it comes from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from fivefold.errors import DataError
from fivefold.types import digest, digest_bytes

VARIABLE = "FIVEFOLD_DATA"
MANIFEST = "MANIFEST.json"
PINS = Path(__file__).with_name("data_sha256.yaml")
MAX_FILE_BYTES = 500_000_000


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a benchmark's data comes from."""

    folder: str
    """Name of the data set's folder in a mirror."""
    files: tuple[str, ...]
    """Files in that folder that the benchmark reads."""
    origin: str
    """Repository and revision that the files were taken from."""
    revision: str
    """The origin's revision: a commit, a release, a version."""
    licence: str
    """SPDX identifier of the data's licence, or its name."""
    hub: str
    """The same data elsewhere, most often a data set on the Hugging Face hub."""

    @property
    def sha256s(self) -> dict[str, str]:
        """SHA-256 of each file, as the benchmark was written for it."""
        known = pins().get(self.folder, {})
        return {file: known[file] for file in self.files if file in known}

    @property
    def digest(self) -> str:
        """One digest for exactly these files."""
        return digest(self.sha256s)


@cache
def pins() -> Mapping[str, Mapping[str, str]]:
    """Folder -> file -> SHA-256 of every file that a benchmark reads."""
    loaded: dict[str, dict[str, str]] = yaml.safe_load(PINS.read_text(encoding="utf-8"))
    return loaded


def mirror() -> Path | None:
    """The mirror's folder, or None when `FIVEFOLD_DATA` is not set."""
    name = os.environ.get(VARIABLE, "").strip()
    return Path(name).expanduser() if name else None


def missing(source: Source) -> list[str]:
    """What keeps `source` from being read here, one line each; hashes are checked when it is read."""
    try:
        listed = _listed(source)
    except DataError as error:
        return [_line(error)]
    root = mirror()
    assert root is not None
    absent = [f for f in source.files if f not in listed or not (root / source.folder / f).is_file()]
    return [_line(_absent(source, absent))] if absent else []


def read(source: Source, file: str) -> bytes:
    """A file of the data set. DataError when it is not there, or is not what the manifest and this benchmark say."""
    root, listed = mirror(), _listed(source)
    assert root is not None
    path = root / source.folder / file
    if file not in listed or not path.is_file():
        raise _absent(source, [file])
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(f"{path} is too large", expected=f"at most {MAX_FILE_BYTES} bytes", got=path.stat().st_size)
    data = path.read_bytes()
    if (got := digest_bytes(data)) != listed[file]:
        raise DataError(f"{path} was changed: it does not match {MANIFEST}", expected=listed[file], got=got)
    return data


def _listed(source: Source) -> Mapping[str, str]:
    """File -> SHA-256 of this data set as the manifest has it; DataError when it is another version than ours."""
    root = mirror()
    if root is None:
        raise DataError(
            f"{source.folder} is not here: {VARIABLE} is not set",
            expected=f"a folder with {MANIFEST} and {source.folder}/",
            next_step=f"export {VARIABLE}=FOLDER; {_origin(source)}",
        )
    path = root / MANIFEST
    if not path.is_file():
        raise DataError(f"{VARIABLE} names {root}, which holds no {MANIFEST}", next_step=_origin(source))
    listed = _manifest(path, path.stat().st_mtime_ns).get(source.folder, {})
    for file, expected in source.sha256s.items():
        if listed.get(file, expected) != expected:
            what = f"{source.folder}/{file} in the mirror is another version than the benchmark's"
            raise DataError(what, expected=expected, got=listed[file], next_step=_origin(source))
    return listed


def _absent(source: Source, files: list[str]) -> DataError:
    shown = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    return DataError(f"{source.folder}: {shown} not in the mirror {mirror()}", next_step=_origin(source))


def _origin(source: Source) -> str:
    return (
        f"put {source.folder}/ there with its hashes in {MANIFEST} (from {source.origin}), "
        f"or fetch it from {source.hub} and run it with inspect-evals or lm-eval"
    )


def _line(error: DataError) -> str:
    return f"{error.what}: {error.next_step}" if error.next_step else error.what


@cache
def _manifest(path: Path, changed: int) -> Mapping[str, Mapping[str, str]]:
    """The manifest; `changed` makes an edited one be read again."""
    try:
        data = json.loads(path.read_bytes())
        return {name: {e["file"]: e["sha256"] for e in entries} for name, entries in data.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        expected = '{folder: [{"file": name, "sha256": hex}]}'
        raise DataError(
            f"{path} is not a manifest", expected=expected, got=f"{type(error).__name__}: {error}"
        ) from error
