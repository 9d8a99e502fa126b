"""The cache folder of models: what was converted, by the hash of its source. Never half-written."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fivefold.errors import ModelError


def cache_folder() -> Path:
    """`FIVEFOLD_CACHE`, or `~/.cache/fivefold`."""
    asked = os.environ.get("FIVEFOLD_CACHE")
    return Path(asked).expanduser() if asked else Path.home() / ".cache" / "fivefold"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all; a cache that cannot be written is no error."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)


def file_digest(path: Path) -> str:
    """SHA-256 hex of a file, remembered by path, size and time of change."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    memo = cache_folder() / "digests" / key
    try:
        known = memo.read_text()
    except OSError:
        known = ""
    if len(known) == 64:
        return known
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    write_atomically(memo, value.encode())
    return value


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well; if another process was first, theirs stays.

    Raises ModelError when the cache cannot be written (permission, no space).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        yield work
        with suppress(OSError):
            work.rename(target)
        if not target.is_dir():
            raise ModelError(f"the model cache {target} could not be put in place")
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> ModelError:
    return ModelError(
        f"the model cache {target.parent} cannot be written",
        got=error.strerror or str(error),
        next_step="free some space, or set FIVEFOLD_CACHE to a folder that can be written",
    )
