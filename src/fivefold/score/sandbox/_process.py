"""One bubblewrap process: started with its files and filter, watched, and killed with everything inside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from fivefold.errors import SandboxError
from fivefold.score.sandbox import _bwrap, _seccomp, _watch
from fivefold.score.sandbox.limits import KilledBy, SandboxLimits

POLL_SECONDS = 0.05
MAX_FILES = 200


@dataclass
class Process:
    """A running sandbox. `status` is the descriptor on which bubblewrap says what became of it."""

    popen: subprocess.Popen[bytes]
    limits: SandboxLimits
    status: int
    said: bytes = field(default=b"")

    def read_status(self) -> None:
        """Take in what bubblewrap has said so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.status, 4096):
                self.said += data

    def _fact(self, key: str) -> int | None:
        for line in self.said.splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(value := json.loads(line).get(key), int):
                    return value
        return None

    @property
    def init(self) -> int | None:
        """Host pid of the sandbox's first process."""
        return self._fact("child-pid")

    @property
    def started(self) -> bool:
        """Whether the command itself was started and ended by itself, as opposed to the sandbox failing."""
        return self._fact("exit-code") is not None

    def exceeded(self) -> KilledBy | None:
        """The watched limit that the processes have passed, if any."""
        self.read_status()
        if self.init is None:
            return None
        if _watch.over_memory(_watch.tree(self.init), self.limits.memory_bytes):
            return "memory"
        return "files" if _watch.files_used(self.init, "/tmp") > self.limits.files else None

    def kill(self) -> None:
        """End everything in the sandbox: its first process takes all others with it."""
        self.read_status()
        if self.init is not None and self.popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def failure(self, stderr: bytes) -> SandboxError:
        """The error for a sandbox that never ran its command."""
        text = stderr.decode(errors="replace").strip()[-500:]
        namespaces = any(word in text.lower() for word in ("namespace", "not permitted", "uid map", "mount proc"))
        return SandboxError(
            "the sandbox could not be set up; nothing was run",
            got=text or f"bubblewrap ended with status {self.popen.returncode}",
            next_step=_bwrap.NAMESPACES if namespaces else "check that `bwrap --ro-bind / / true` works for this user",
        )


@contextmanager
def started(
    command: Sequence[str],
    limits: SandboxLimits,
    *,
    files: Mapping[str, bytes],
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    cpu: bool = True,
) -> Iterator[Process]:
    """Start `command` with `files` (absolute paths inside); whatever is left of it at the end of the block is killed.

    The process dies with the thread that enters this block, so the block must not be left to another thread.
    """
    _bwrap.require()
    contents = {**_bwrap.system_files(), **files}
    with contextlib.ExitStack() as stack:
        descriptors = {path: _memory_file(data, stack) for path, data in contents.items()}
        seccomp = _memory_file(_filter(), stack)
        status, status_end = os.pipe()
        stack.callback(os.close, status)
        alive, alive_end = os.pipe()
        stack.callback(os.close, alive)
        os.set_blocking(status, False)
        try:
            line = _bwrap.argv(
                command,
                limits,
                files=descriptors,
                seccomp=seccomp,
                status=status_end,
                alive=alive_end,
                env=env or {},
                options=options,
                cpu=cpu,
            )
            popen = _popen(line, [*descriptors.values(), seccomp, status_end, alive_end])
        finally:
            os.close(status_end)
            os.close(alive_end)
        process = Process(popen=popen, limits=limits, status=status)
        try:
            yield process
        finally:
            process.kill()
            popen.wait()
            for stream in (popen.stdin, popen.stdout, popen.stderr):
                if stream:
                    stream.close()


def _popen(line: Sequence[str], descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """An empty environment: the sandbox's first process would show the host's in `/proc/1/environ`."""
    try:
        return subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            env={},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
    except (OSError, ValueError) as error:
        raise SandboxError("the sandbox could not be started; nothing was run", got=error) from error


def _memory_file(data: bytes, stack: contextlib.ExitStack) -> int:
    descriptor = os.memfd_create("sandbox")
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


@cache
def _filter() -> bytes:
    return _seccomp.program()
