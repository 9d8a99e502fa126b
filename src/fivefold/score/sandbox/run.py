"""Run one command in a sandbox of its own and come back with what it said."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from fivefold.errors import SandboxError
from fivefold.score.sandbox._bwrap import WORK
from fivefold.score.sandbox._process import MAX_FILES, POLL_SECONDS, Process, started
from fivefold.score.sandbox.limits import KilledBy, SandboxLimits, SandboxResult

DRAIN_SECONDS = 2.0


def run_sandboxed(
    files: Mapping[str, bytes],
    command: Sequence[str],
    *,
    limits: SandboxLimits | None = None,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> SandboxResult:
    """Run untrusted `command` over `files` (relative path -> content) in isolation.

    The command sees `files` in its working folder, `/usr` and Python (`python3` is the one that runs this), and nothing
    else: no network, no other process, no environment. Everything it started is gone when this returns.

    Raises SandboxError when the sandbox itself fails or a path in `files` would lead out of the folder; a command that
    fails, is missing or is killed is a result, not an error.
    """
    limits = limits or SandboxLimits()
    if not command:
        raise SandboxError("no command to run in the sandbox")
    contents = {f"{WORK}/{name}": data for name, data in checked(files).items()}
    with started(command, limits, files=contents, env=env) as process:
        run = _Run(process=process, stdin=memoryview(stdin), deadline=time.monotonic() + limits.seconds)
        run.until_done()
    return run.result()


def checked(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """`files` under normal names; SandboxError for a name that is absolute, climbs up, or occurs twice."""
    out: dict[str, bytes] = {}
    for name, data in files.items():
        path = PurePosixPath(name)
        bad = not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name
        if bad or str(path) in out:
            raise SandboxError(
                "a file has no place in the sandbox", expected="different relative paths without '..'", got=repr(name)
            )
        out[str(path)] = data
    if len(out) > MAX_FILES:
        raise SandboxError("too many files for the sandbox", expected=f"at most {MAX_FILES}", got=len(out))
    return out


@dataclass
class _Run:
    """Feeds a sandbox's input and reads its output until it ends or passes a limit."""

    process: Process
    stdin: memoryview
    deadline: float
    output: dict[str, bytes] = field(default_factory=lambda: {"stdout": b"", "stderr": b""})
    killed_by: KilledBy | None = None
    truncated: bool = False

    def until_done(self) -> None:
        """Returns when the sandbox is gone."""
        popen = self.process.popen
        gone = os.pidfd_open(popen.pid)
        try:
            with selectors.DefaultSelector() as selector:
                self._register(selector, gone)
                while popen.poll() is None or selector.get_map().keys() - {gone}:
                    if not self._step(selector, gone):
                        break
        finally:
            os.close(gone)
        self.process.kill()
        popen.wait()
        self.process.read_status()

    def result(self) -> SandboxResult:
        """What came of it; SandboxError when the command was never started."""
        code = self.process.popen.returncode
        if self.killed_by is None and not self.process.started:
            raise self.process.failure(self.output["stderr"])
        if self.killed_by is None and code == 128 + signal.SIGXCPU:
            self.killed_by = "cpu"
        elif self.killed_by is not None:
            code = 128 + signal.SIGKILL
        return SandboxResult(
            returncode=code,
            stdout=self.output["stdout"],
            stderr=self.output["stderr"],
            timed_out=self.killed_by == "time",
            killed_by=self.killed_by,
            truncated=self.truncated,
        )

    def _register(self, selector: selectors.BaseSelector, gone: int) -> None:
        popen = self.process.popen
        assert popen.stdin and popen.stdout and popen.stderr
        for stream in (popen.stdin, popen.stdout, popen.stderr):
            os.set_blocking(stream.fileno(), False)
        selector.register(gone, selectors.EVENT_READ, "gone")
        selector.register(popen.stdout.fileno(), selectors.EVENT_READ, "stdout")
        selector.register(popen.stderr.fileno(), selectors.EVENT_READ, "stderr")
        if self.stdin:
            selector.register(popen.stdin.fileno(), selectors.EVENT_WRITE, "stdin")
        else:
            popen.stdin.close()

    def _step(self, selector: selectors.BaseSelector, gone: int) -> bool:
        """Move what can be moved; False when nothing more will come."""
        for key, _ in selector.select(POLL_SECONDS):
            if key.data == "gone":
                # All processes are dead or dying: what is in the pipes is all there will be.
                selector.unregister(gone)
                self.deadline = min(self.deadline, time.monotonic() + DRAIN_SECONDS)
            elif key.data == "stdin":
                self._feed(selector, key.fd)
            else:
                self._take(selector, key.fd, str(key.data))
        if self.killed_by is None:
            self._check()
        return time.monotonic() < self.deadline + (DRAIN_SECONDS if self.killed_by else 0)

    def _check(self) -> None:
        alive = self.process.popen.poll() is None
        late: KilledBy | None = "time" if time.monotonic() >= self.deadline else None
        limit = late or (self.process.exceeded() if alive else None)
        if limit and alive:
            self._kill(limit)

    def _kill(self, limit: KilledBy) -> None:
        self.killed_by = limit
        self.deadline = min(self.deadline, time.monotonic())
        self.process.kill()

    def _feed(self, selector: selectors.BaseSelector, descriptor: int) -> None:
        try:
            self.stdin = self.stdin[os.write(descriptor, self.stdin[:65536]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.stdin = self.stdin[:0]
        if not self.stdin:
            selector.unregister(descriptor)
            assert self.process.popen.stdin
            self.process.popen.stdin.close()

    def _take(self, selector: selectors.BaseSelector, descriptor: int, name: str) -> None:
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return
        if not data:
            selector.unregister(descriptor)
            return
        limit = self.process.limits.output_bytes
        room = limit - len(self.output[name])
        self.output[name] += data[:room]
        if len(data) > room:
            self.truncated = True
            if self.killed_by is None:
                self._kill("output")
