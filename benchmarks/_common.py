"""What every comparison shares: one thread for both sides, CPU-seconds, one JSON line each."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def one_thread() -> None:
    """Both sides on one thread, so that CPU-seconds compare work and not waiting. Call before torch is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "FIVEFOLD_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def limit(default: int) -> int:
    """How many items to compare: `BENCH_LIMIT`, or `default`."""
    return int(os.environ.get("BENCH_LIMIT", default))


def dtype() -> str:
    """What our side computes in: `BENCH_DTYPE`, `float32` or `bfloat16`; the first where nothing is said."""
    asked = os.environ.get("BENCH_DTYPE", "float32")
    if asked not in ("float32", "bfloat16"):
        raise SystemExit(f"BENCH_DTYPE is {asked!r}, expected float32 or bfloat16")
    import torch

    from fivefold.runtime.backends.hf import _has_bfloat16

    if asked == "bfloat16" and not _has_bfloat16(torch.device("cpu")):
        raise SystemExit(
            "BENCH_DTYPE is bfloat16, and this processor has no instructions for it (avx512_bf16, amx_bf16)"
        )
    return asked


def peer_dtypes() -> tuple[str, ...]:
    """What a peer computes in: float32 as we do; beside bfloat16 of ours, float32 and then bfloat16."""
    return ("float32",) if dtype() == "float32" else ("float32", "bfloat16")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Result of `work` and the CPU-seconds that this process spent on it."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def machine() -> str:
    """Processor, cores that may be used, and library versions that decide the speed."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {len(os.sched_getaffinity(0))} cores, 1 thread used, torch {version('torch')}"


def emit(name: str, peer: str, unit: str, ours: float, theirs: float, agreement: dict[str, Any], package: str) -> None:
    """Print one comparison; `ours` and `theirs` are rates in `unit`, so a ratio above 1 means that we are faster.

    `package` is the peer's distribution; empty where the peer is this same code, used another way.
    """
    line = {
        "name": name,
        "peer": peer,
        "peer_version": version(package) if package else "this code",
        "unit": unit,
        "ours": round(ours, 4),
        "theirs": round(theirs, 4),
        "ratio": round(ours / theirs, 3),
        "agreement": agreement,
        "machine": machine(),
    }
    print(json.dumps(line), flush=True)
