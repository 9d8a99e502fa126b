"""What sandboxed code may use, and what a run of it came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

MIB = 1024 * 1024

KilledBy: TypeAlias = Literal["time", "cpu", "memory", "output", "files"]


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """Limits of one sandbox. Whatever reaches one is stopped; nothing is allowed to wait for more."""

    seconds: float = 10.0
    """Wall-clock time until everything in the sandbox is killed."""
    cpu_seconds: int = 10
    """Processor time of one process (RLIMIT_CPU)."""
    memory_bytes: int = 512 * MIB
    """Address space of one process (RLIMIT_AS), and the proportional memory of all processes together (watched)."""
    processes: int = 32
    """Processes and threads alive at once, the sandbox's own two included (RLIMIT_NPROC of an unprivileged user)."""
    disk_bytes: int = 64 * MIB
    """Size of the only writable file system, which lives in memory; also the largest file (RLIMIT_FSIZE)."""
    files: int = 10_000
    """Files and folders on it (watched)."""
    output_bytes: int = MIB
    """Bytes of standard output that are read, and as many of standard error; one more ends the run."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"SandboxLimits.{name} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True)
class SandboxResult:
    """How a command in the sandbox ended.

    `returncode` is the command's own, 128 + n when signal n ended it (137 when a limit did). `killed_by` names the
    limit that ended it, if one did; `timed_out` is true for the wall clock. `truncated`: output was cut at its limit.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    killed_by: KilledBy | None = None
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself with status 0."""
        return self.returncode == 0 and self.killed_by is None
