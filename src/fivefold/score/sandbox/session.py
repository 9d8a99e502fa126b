"""A sandbox that stays: commands and files in one isolated place until it is closed, as an agent needs it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import struct
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from fivefold.errors import SandboxError
from fivefold.score.sandbox import _bwrap, _watch
from fivefold.score.sandbox._bwrap import WORK
from fivefold.score.sandbox._process import POLL_SECONDS, Process, started
from fivefold.score.sandbox.limits import MIB, SandboxLimits, SandboxResult

SESSION_LIMITS = SandboxLimits(
    seconds=180,
    cpu_seconds=180,
    memory_bytes=2048 * MIB,
    processes=128,
    disk_bytes=512 * MIB,
    files=50_000,
    output_bytes=10 * MIB,
)
START_SECONDS = 30.0
ANSWER_SECONDS = 30.0
MAX_HEADER, MAX_BODY = MIB, 512 * MIB
STRIKES = 20

_Answer: TypeAlias = "Future[tuple[dict[str, Any], bytes]]"


class TooLargeError(Exception):
    """A file is larger than the caller will read."""


@dataclass
class Session:
    """One sandbox that stays. `limits.seconds`, `cpu_seconds` and `output_bytes` are of each command, the rest of all
    together. Processes that a command leaves in the background live on until `close`, as in a container.

    Every method may be called from any thread. SandboxError: the sandbox is gone, or never came up.
    """

    limits: SandboxLimits = SESSION_LIMITS
    _pending: dict[int, _Answer] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: str | None = None
    _last_id: int = 0
    _process: Process | None = None
    _thread: threading.Thread | None = None

    def start(self) -> Session:
        """Bring the sandbox up; returns itself."""
        first: _Answer = Future()
        self._pending[0] = first
        # A thread of its own: the sandbox dies with the thread that started it, and pools retire theirs.
        self._thread = threading.Thread(target=self._run, name="sandbox-session", daemon=True)
        self._thread.start()
        self._wait(first, START_SECONDS)
        return self

    def close(self) -> None:
        """Kill everything in the sandbox and forget its files."""
        self._ended = self._ended or "it was closed"
        if self._thread is not None:
            self._thread.join(START_SECONDS)

    def exec(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        seconds: float | None = None,
        output_bytes: int | None = None,
    ) -> SandboxResult:
        """Run a command; relative `cwd` is below the working folder. `seconds` and `output_bytes` override limits."""
        seconds = self.limits.seconds if seconds is None else seconds
        limit = output_bytes or self.limits.output_bytes
        cpu = self.limits.cpu_seconds
        request = {
            "op": "exec",
            "prefix": [_bwrap.tool("prlimit"), f"--cpu={cpu}:{cpu + 1}", "--"],
            "cmd": list(command),
            "cwd": os.path.join(WORK, cwd),
            "env": dict(env or {}),
            "seconds": seconds,
            "output_bytes": limit,
        }
        header, body = self._ask(request, stdin, seconds + ANSWER_SECONDS)
        killed_by = header.get("killed_by")
        if killed_by is None and header["returncode"] == 128 + signal.SIGXCPU:
            killed_by = "cpu"
        split = int(header["split"])
        return SandboxResult(
            returncode=int(header["returncode"]),
            stdout=body[:split],
            stderr=body[split:],
            timed_out=killed_by == "time",
            killed_by=killed_by,
            truncated=killed_by == "output",
        )

    def read(self, path: str, *, max_bytes: int = 100 * MIB) -> bytes:
        """Contents of a file, opened inside. Raises the usual OSErrors, and TooLargeError beyond `max_bytes`."""
        request = {"op": "read", "path": os.path.join(WORK, path), "max_bytes": max_bytes}
        header, body = self._ask(request, b"", ANSWER_SECONDS)
        if header["over"]:
            raise TooLargeError(f"{path} is larger than {max_bytes} bytes")
        return body

    def write(self, path: str, data: bytes) -> None:
        """Write a file inside, making its folders. Raises the usual OSErrors."""
        self._ask({"op": "write", "path": os.path.join(WORK, path)}, data, ANSWER_SECONDS)

    def _ask(self, request: dict[str, Any], body: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
        answer: _Answer = Future()
        with self._lock:
            self._refuse_if_ended()
            self._last_id += 1
            self._pending[self._last_id] = answer
            header = json.dumps({**request, "id": self._last_id}).encode()
            self._send(struct.pack(">II", len(header), len(body)) + header + body)
        answered, data = self._wait(answer, seconds)
        if "error" in answered:
            raise _error(answered)
        return answered, data

    def _send(self, frame: bytes) -> None:
        assert self._process and self._process.popen.stdin
        try:
            view = memoryview(frame)
            while view:
                view = view[self._process.popen.stdin.write(view) or 0 :]
        except (OSError, ValueError) as error:
            raise SandboxError("the sandbox is gone", got=error) from error

    def _wait(self, answer: _Answer, seconds: float) -> tuple[dict[str, Any], bytes]:
        try:
            return answer.result(seconds)
        except FutureTimeoutError as error:
            raise SandboxError("the sandbox does not answer", got=f"nothing for {seconds:.0f} s") from error

    def _refuse_if_ended(self) -> None:
        if self._ended is not None or self._process is None:
            raise SandboxError("the sandbox is gone", got=self._ended or "it was never started")

    def _run(self) -> None:
        """The session's thread: starts the sandbox, hands out answers, watches limits, reports the end."""
        failure: Exception = SandboxError("the sandbox is gone")
        try:
            command = ["python3", "-I", "-S", "-c", _supervisor()]
            with started(command, self.limits, files={}, options=["--as-pid-1"], cpu=False) as process:
                self._process = process
                self._serve(process)
            failure = SandboxError("the sandbox is gone", got=self._ended)
        except Exception as error:
            failure = error
        with self._lock:
            self._ended = self._ended or str(failure)
            for answer in self._pending.values():
                if not answer.done():
                    answer.set_exception(failure)

    def _serve(self, process: Process) -> None:
        assert process.popen.stdout and process.popen.stderr
        said = {"stdout": bytearray(), "stderr": bytearray()}
        strikes = 0
        with selectors.DefaultSelector() as selector:
            selector.register(process.popen.stdout, selectors.EVENT_READ, "stdout")
            selector.register(process.popen.stderr, selectors.EVENT_READ, "stderr")
            while selector.get_map() and self._ended is None:
                for key, _ in selector.select(POLL_SECONDS):
                    if data := os.read(key.fd, 1 << 20):
                        said[key.data] += data
                    else:
                        selector.unregister(key.fileobj)
                del said["stderr"][:-4096]
                self._hand_out(said["stdout"])
                strikes = strikes + 1 if self._over_limit(process) else 0
                if strikes > STRIKES:
                    self._ended = "its processes kept passing a limit"
                    return
        if self._ended is None and 0 in self._pending:
            process.popen.wait()
            raise process.failure(bytes(said["stderr"]))

    def _over_limit(self, process: Process) -> bool:
        """Kill what passes the memory limit, all but the first process; too many files end the sandbox."""
        limit = process.exceeded()
        if limit is None or process.init is None:
            return False
        if limit == "files":
            self._ended = f"it held more than {self.limits.files} files"
        for pid in _watch.tree(process.init)[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return True

    def _hand_out(self, buffer: bytearray) -> None:
        """Take whole frames off the buffer and give them to who waits."""
        while len(buffer) >= 8:
            n_header, n_body = struct.unpack(">II", buffer[:8])
            if n_header > MAX_HEADER or n_body > MAX_BODY:
                raise SandboxError("the sandbox answers with nonsense", got=f"a frame of {n_header + n_body} bytes")
            if len(buffer) < 8 + n_header + n_body:
                return
            header = json.loads(buffer[8 : 8 + n_header])
            body = bytes(buffer[8 + n_header : 8 + n_header + n_body])
            del buffer[: 8 + n_header + n_body]
            if answer := self._pending.pop(int(header.get("id", -1)), None):
                answer.set_result((header, body))


def _error(answered: Mapping[str, Any]) -> Exception:
    """The error that happened inside: an OSError of the right class where it was one."""
    message, number = str(answered["error"]), answered.get("errno")
    if number is None:
        return SandboxError("the sandbox could not do what was asked", got=message)
    return OSError(errno.EACCES if number == errno.EROFS else int(number), message, str(answered.get("path")))


@cache
def _supervisor() -> str:
    return Path(__file__).with_name("_supervisor.py").read_text(encoding="utf-8")
