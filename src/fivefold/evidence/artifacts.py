"""Files and folders kept under the SHA-256 of their content: adapters, probes, logs, documents."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivefold.errors import StoreError, TamperedError
from fivefold.evidence.database import store_error
from fivefold.types import digest

CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Content in the store. A file's `digest` is the SHA-256 of its bytes; a folder's is the SHA-256 of the canonical
    list of its files (path, sha256, size). `size` is in bytes."""

    digest: str
    path: Path
    size: int
    name: str


class ArtifactFolder:
    """`files/ab/<digest>` and `folders/ab/<digest>/…` under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, data: bytes | Path, name: str) -> tuple[Artifact, list[dict[str, Any]]]:
        """Keep bytes, a file or a folder; the artifact, and for a folder the list of its files."""
        if isinstance(data, Path) and not data.exists():
            raise StoreError(f"there is no file or folder {data} to keep as an artifact")
        with self._errors("written"):
            if isinstance(data, Path) and data.is_dir():
                return self._put_folder(data, name)
            return self._put_file(data, name), []

    def find(self, digest_: str) -> Path:
        """Where an artifact lies, once its content is found to match; TamperedError when it does not."""
        path = self.locate(digest_)
        if path is None:
            raise StoreError(
                f"no artifact {digest_[:12]} in {self.root}",
                next_step="run the step that makes it, or restore the folder",
            )
        found = self.digest_of(path)
        if found != digest_:
            raise TamperedError(
                f"artifact {digest_[:12]} was changed",
                expected=f"sha256 {digest_}",
                got=f"sha256 {found}",
                next_step=f"restore {path} from a copy, or remove it and run the step that makes it",
            )
        return path

    def locate(self, digest_: str) -> Path | None:
        """Where an artifact should lie, unchecked; None when nothing is there."""
        for path in (self._place("files", digest_), self._place("folders", digest_)):
            if path.exists():
                return path
        return None

    def digest_of(self, path: Path) -> str:
        """The digest that a file or folder has now."""
        with self._errors("read"):
            return digest(listing(path)) if path.is_dir() else _hash_file(path)[0]

    def _put_file(self, data: bytes | Path, name: str) -> Artifact:
        with self._temporary() as temporary:
            target = temporary / "file"
            found, size = _write(data, target)
            place = self._place("files", found)
            if not self._holds(place, found):
                _settle(target, place)
        return Artifact(digest=found, path=place, size=size, name=name)

    def _put_folder(self, source: Path, name: str) -> tuple[Artifact, list[dict[str, Any]]]:
        with self._temporary() as temporary:
            target = temporary / "folder"
            for entry in listing(source):
                (target / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
                _write(source / entry["path"], target / entry["path"])
            files = listing(target)
            found = digest(files)
            place = self._place("folders", found)
            if not self._holds(place, found):
                _settle(target, place)
        return Artifact(digest=found, path=place, size=sum(f["size"] for f in files), name=name), files

    def _holds(self, place: Path, expected: str) -> bool:
        """Whether intact content is there already; damaged content is cleared away, for the caller brings it anew."""
        if not place.exists():
            return False
        if self.digest_of(place) == expected:
            return True
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        return False

    def _place(self, kind: str, digest_: str) -> Path:
        if len(digest_) != 64 or any(c not in "0123456789abcdef" for c in digest_):
            raise StoreError("not a digest", expected="64 hex digits", got=repr(digest_)[:80])
        return self.root / kind / digest_[:2] / digest_

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".new-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise store_error(error, str(self.root), doing) from error


def listing(folder: Path) -> list[dict[str, Any]]:
    """Every file below `folder` as {path, sha256, size}, by path; StoreError for links, devices and an empty folder."""
    entries: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StoreError(
                f"{path} is not a plain file", next_step="artifacts hold plain files only: copy what it points to"
            )
        if path.is_file():
            sha256, size = _hash_file(path)
            entries.append({"path": path.relative_to(folder).as_posix(), "sha256": sha256, "size": size})
    if not entries:
        raise StoreError(f"the folder {folder} is empty: there is nothing to keep")
    return entries


def _write(data: bytes | Path, target: Path) -> tuple[str, int]:
    """Write or copy to `target`, read-only and flushed to disk; (sha256, size) of what was written."""
    hasher, size = hashlib.sha256(), 0
    with target.open("xb") as out:
        for chunk in _chunks(data):
            hasher.update(chunk)
            size += len(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    target.chmod(0o444)
    return hasher.hexdigest(), size


def _hash_file(path: Path) -> tuple[str, int]:
    hasher, size = hashlib.sha256(), 0
    for chunk in _chunks(path):
        hasher.update(chunk)
        size += len(chunk)
    return hasher.hexdigest(), size


def _chunks(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    with data.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _settle(made: Path, place: Path) -> None:
    """Rename into place and make the rename durable. Another process may have brought the same content meanwhile."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(place)
    except OSError:
        if not place.exists():
            raise
    handle = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
