"""`fivefold align` in tests: small data in files, settings as flags, and a call with what it printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fivefold.cli.app import run

WORDS = ("fox", "dog", "quartz", "jumps", "lazy", "Paris", "France", "zebra", "box", "jug")


def at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own in `folder`, which is also where commands run; no mirrored data."""
    monkeypatch.setenv("FIVEFOLD_HOME", str(folder / "home"))
    monkeypatch.delenv("FIVEFOLD_DATA", raising=False)
    monkeypatch.chdir(folder)
    return folder / "home"


def write_pairs(path: Path) -> Path:
    """Forty preferences."""
    return _written(
        path,
        [
            {
                "prompt": f"{WORDS[i % 10]} {WORDS[i // 10]} {i * 7919}?",
                "chosen": f"Sure, {WORDS[i % 7]} {i * 31}.",
                "rejected": f"I cannot {WORDS[i % 9]} {i * 17}.",
            }
            for i in range(40)
        ],
    )


def write_problems(path: Path) -> Path:
    """Sixteen problems whose answers are numbers."""
    return _written(
        path, [{"id": f"p{i}", "prompt": f"{WORDS[i % 10]}: what is {i * 97}?", "target": str(i)} for i in range(16)]
    )


def _written(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def as_flags(changes: Sequence[str]) -> list[str]:
    """`--set` before each change."""
    return [part for change in changes for part in ("--set", change)]


def call(capsysbinary: Any, *argv: str) -> tuple[int, str, str]:
    """Exit code and output of `fivefold align`."""
    code = run(["align", *argv])
    out, err = capsysbinary.readouterr()
    return code, out.decode(), err.decode()


def trained(capsysbinary: Any, *argv: str) -> dict[str, Any]:
    """What a training that ends well says as JSON."""
    code, out, err = call(capsysbinary, *argv, "--json")
    assert code == 0, out + err
    body: dict[str, Any] = json.loads(out)
    return body
