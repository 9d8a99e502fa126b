"""Small mirrors of public data sets, written by the tests in the form of the real ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from fivefold.evaluate import data


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_mirror(root: Path, folders: Mapping[str, Mapping[str, bytes]]) -> Path:
    """A mirror with these files and their manifest."""
    root.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, list[dict[str, object]]] = {}
    for folder, files in folders.items():
        for name, content in files.items():
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            entry = {
                "file": name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "source": "test",
            }
            manifest.setdefault(folder, []).append(entry)
    (root / data.MANIFEST).write_text(json.dumps(manifest))
    return root


def use_mirror(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Make it the mirror, without the hashes of the real files."""
    monkeypatch.setenv(data.VARIABLE, str(root))
    monkeypatch.setattr(data, "pins", dict)
