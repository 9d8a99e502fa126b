"""Processes of this machine, found by a word in their command line."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


def processes_with(word: str) -> list[int]:
    """Ids of the processes whose command line holds `word`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if word in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def gone(word: str, seconds: float = 5.0) -> bool:
    """Whether no such process is left after at most so many seconds."""
    deadline = time.monotonic() + seconds
    while processes_with(word) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not processes_with(word)


def running(name: str, word: str) -> list[int]:
    """Those of them that run the program `name`."""
    found = []
    for pid in processes_with(word):
        with contextlib.suppress(OSError):
            found += [pid] if Path(f"/proc/{pid}/comm").read_text().strip() == name else []
    return found
