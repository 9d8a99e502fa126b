"""What the processes of a sandbox use together, read from the host's `/proc`: limits on one process do not add up."""

from __future__ import annotations

import os
from collections.abc import Iterable

PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(root: int) -> list[int]:
    """`root` and everything that descends from it. Orphans stay in the tree: they fall to the sandbox's own init."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += _children(pid)
    return found


def over_memory(pids: Iterable[int], limit: int) -> bool:
    """Whether the processes' resident memory exceeds `limit` bytes, shared pages counted once.

    The cheap sum counts shared pages for each process; only when it is over are proportional sizes read.
    """
    pids = list(pids)
    return sum(map(_resident, pids)) > limit and sum(map(_proportional, pids)) > limit


def files_used(pid: int, folder: str) -> int:
    """Files and folders on the file system that process `pid` sees at `folder`; 0 before it is mounted and after."""
    inside = f"/proc/{pid}/root{folder}"
    try:
        if os.stat(inside).st_dev == os.stat(folder).st_dev:
            return 0
        stat = os.statvfs(inside)
    except OSError:
        return 0
    return stat.f_files - stat.f_ffree


def _children(pid: int) -> list[int]:
    out: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            out += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    except OSError:
        pass
    return out


def _resident(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE if len(fields) > 1 else 0


def _proportional(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
