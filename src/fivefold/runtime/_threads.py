"""How many threads torch may use: the physical cores this process is allowed, once per process."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def physical_cores() -> int:
    """Physical cores among the CPUs that this process may run on, within the container's quota."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_core_of(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota() or len(cores)))


def _core_of(cpu: int) -> tuple[str, str]:
    folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (folder / "physical_package_id").read_text().strip(), (folder / "core_id").read_text().strip()
    except OSError:
        return ("", str(cpu))


def _quota() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))


@cache
def pin_threads() -> int:
    """Set torch's threads to the physical cores, or to `FIVEFOLD_THREADS` / `OMP_NUM_THREADS`; returns the number."""
    import torch

    asked = os.environ.get("FIVEFOLD_THREADS") or os.environ.get("OMP_NUM_THREADS")
    n = int(asked) if asked and asked.isdigit() and int(asked) > 0 else physical_cores()
    torch.set_num_threads(n)
    return n
