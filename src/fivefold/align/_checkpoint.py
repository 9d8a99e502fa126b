"""Checkpoints that survive `kill -9`: written beside, flushed, then put in place in one step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from fivefold.errors import TrainingError
from fivefold.types import digest, digest_bytes

FILE = "checkpoint.pt"


def write_atomic(path: Path, write: Any) -> None:
    """Call `write(handle)` on a new file and move it to `path` once its bytes are on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # several processes of a recipe write the same; on two machines they may have one number
    beside = path.with_name(f".{path.name}.{os.getpid()}-{os.environ.get('RANK', '0')}")
    try:
        with open(beside, "wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically."""
    write_atomic(path, lambda handle: handle.write(json.dumps(value, indent=1, ensure_ascii=False).encode()))


def line(value: Any) -> bytes:
    """`value` as one line of JSON."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def read_json(path: Path) -> Any:
    """What `write_json` wrote, or None if there is no such file."""
    return json.loads(path.read_text()) if path.exists() else None


def made_on(path: Path, what: str, fingerprint: str) -> Any:
    """The record of a finished `what`; TrainingError if there is none, or if it was made on another base model."""
    record = read_json(path)
    if record is None:
        raise TrainingError(f"{path.parent} holds no finished {what}", expected=path.name)
    if record["model"] != fingerprint:
        raise TrainingError(
            f"the {what} in {path.parent} belongs to another base model",
            expected=fingerprint[:12],
            got=record["model"][:12],
        )
    return record


def digest_folder(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files (an adapter, say)."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if not files:
        raise TrainingError(f"{folder} holds no adapter", expected="a folder with adapter_model.safetensors")
    return digest([[str(p.relative_to(folder)), digest_bytes(p.read_bytes())] for p in files])


def save(folder: Path, state: dict[str, Any]) -> None:
    """Keep `state` (tensors, numbers, strings) as the folder's checkpoint."""
    write_atomic(folder / FILE, lambda handle: torch.save(state, handle))


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """The folder's checkpoint, or None. Raises TrainingError if it belongs to another run than `key`."""
    path = folder / FILE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    check_key(folder, state["key"], key)
    return state


def check_key(folder: Path, found: str, key: str) -> None:
    """Raise TrainingError if what lies in `folder` belongs to another run."""
    if found != key:
        raise TrainingError(
            f"{folder} holds a training run of another model, data or configuration",
            expected=key[:12],
            got=found[:12],
            next_step="choose another output folder, or delete this one",
        )


def drop(folder: Path) -> None:
    """Remove the checkpoint."""
    (folder / FILE).unlink(missing_ok=True)
