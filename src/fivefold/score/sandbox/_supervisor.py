"""The first process of a sandbox that stays: starts commands and moves files on request. Runs inside; stdlib only.

Requests come on standard input and answers go to standard output as frames: two big-endian 32-bit lengths, a JSON
header, a body. As process 1 it cannot be signalled from inside, and as a process that may not be dumped its memory and
descriptors are closed to the code it runs, which has the same user. Files are opened here, never by the host, so a
link that untrusted code lays leads nowhere but into the sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import selectors
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO

GRACE_SECONDS = 0.2
FORK_SECONDS = 5.0
PR_SET_DUMPABLE = 4

_starting = threading.Lock()
_answering = threading.Lock()
_mine: set[int] = set()


def main() -> None:
    """Serve until standard input ends."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    threading.Thread(target=_reap, daemon=True).start()
    _answer(answers, {"id": 0}, b"")
    while (frame := _read_frame(requests)) is not None:
        _serve_apart(answers, *frame)


def _serve_apart(answers: BinaryIO, request: dict[str, Any], body: bytes) -> None:
    try:
        threading.Thread(target=_serve, args=(answers, request, body), daemon=True).start()
    except RuntimeError as error:
        _answer(answers, {"id": request["id"], "error": str(error)}, b"")


def _serve(answers: BinaryIO, request: dict[str, Any], body: bytes) -> None:
    try:
        header, out = {"exec": _exec, "read": _read, "write": _write}[request["op"]](request, body)
    except OSError as error:
        header, out = (
            {"errno": error.errno or errno.EIO, "error": str(error.strerror), "path": str(error.filename)},
            b"",
        )
    except Exception as error:
        header, out = {"error": str(error) or type(error).__name__}, b""
    _answer(answers, {**header, "id": request["id"]}, out)


def _exec(request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    if not os.path.isdir(request["cwd"]):
        return {"returncode": 126, "split": 0}, f"cannot enter {request['cwd']}: no such folder\n".encode()
    child = _start(request)
    try:
        ended, outputs = _pump(child, body, request["seconds"], request["output_bytes"])
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        _mine.discard(child.pid)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream:
                stream.close()
    code = child.returncode if child.returncode >= 0 else 128 - child.returncode
    return {"returncode": code, "killed_by": ended, "split": len(outputs[0])}, b"".join(outputs)


def _start(request: dict[str, Any]) -> subprocess.Popen[bytes]:
    with _starting:
        try:
            child = _fork(request)
        except OSError as error:
            raise RuntimeError(f"no process could be started: {error.strerror}") from error
        _mine.add(child.pid)
        return child


def _fork(request: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the command; while the processes of a bomb that was just killed are still going, there is no room yet."""
    given_up = time.monotonic() + FORK_SECONDS
    while True:
        try:
            return subprocess.Popen(
                [*request["prefix"], *request["cmd"]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=request["cwd"],
                env={**os.environ, **request["env"]},
                start_new_session=True,
                bufsize=0,
            )
        except BlockingIOError:
            if time.monotonic() >= given_up:
                raise
            time.sleep(0.05)


def _pump(child: subprocess.Popen[bytes], body: bytes, seconds: float, limit: int) -> tuple[str | None, list[bytes]]:
    """Feed and read until the child has ended and its output with it; the limit that was passed, and both outputs.

    A process left in the background may hold the output open: it gets a moment after the child's end, no more.
    """
    assert child.stdin and child.stdout and child.stderr
    outputs, left = [bytearray(), bytearray()], memoryview(body)
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for i, stream in enumerate((child.stdout, child.stderr)):
            selector.register(stream, selectors.EVENT_READ, i)
        os.set_blocking(child.stdin.fileno(), False)
        selector.register(child.stdin, selectors.EVENT_WRITE, 2)
        over = None
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(0.02):
                if key.data == 2:
                    left = _feed(selector, child.stdin, left)
                elif data := os.read(key.fd, 65536):
                    outputs[key.data] += data
                else:
                    selector.unregister(key.fileobj)
            if any(len(out) > limit for out in outputs):
                return "output", [bytes(out[:limit]) for out in outputs]
            if over is None and child.poll() is not None:
                over = time.monotonic() + GRACE_SECONDS
                deadline = min(deadline, over)
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return (None if child.poll() is not None else "time"), [bytes(out) for out in outputs]


def _feed(selector: selectors.BaseSelector, stdin: Any, left: memoryview) -> memoryview:
    try:
        left = left[os.write(stdin.fileno(), left[:65536]) :] if left else left
    except BlockingIOError:
        return left
    except BrokenPipeError:
        left = left[:0]
    if not left:
        selector.unregister(stdin)
        stdin.close()
    return left


def _read(request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    descriptor = os.open(request["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", request["path"])
        if not stat.S_ISREG(mode):
            raise PermissionError(errno.EACCES, "Not a regular file", request["path"])
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = _read_up_to(file, request["max_bytes"] + 1)
    finally:
        os.close(descriptor)
    return {"over": len(data) > request["max_bytes"]}, data[: request["max_bytes"]]


def _read_up_to(file: BinaryIO, n: int) -> bytes:
    """At most `n` bytes, without reserving memory for a file that is smaller."""
    parts: list[bytes] = []
    while n > 0 and (part := file.read(min(n, 1 << 20))):
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _write(request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    path = request["path"]
    if folder := os.path.dirname(path):
        os.makedirs(folder, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        file.write(body)
    return {}, b""


def _reap() -> None:
    """Process 1 inherits orphans: take their ends, and leave those of its own commands to the threads that wait."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            ended = None
        if ended is None or not _reap_orphan(ended.si_pid):
            time.sleep(0.05)


def _reap_orphan(pid: int) -> bool:
    with _starting:
        if pid in _mine:
            return False
        os.waitpid(pid, os.WNOHANG)
        return True


def _read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    lengths = stream.read(8)
    if len(lengths) < 8:
        return None
    n_header, n_body = struct.unpack(">II", lengths)
    return json.loads(stream.read(n_header)), stream.read(n_body)


def _answer(stream: BinaryIO, header: dict[str, Any], body: bytes) -> None:
    text = json.dumps(header).encode()
    with _answering:
        stream.write(struct.pack(">II", len(text), len(body)) + text + body)
        stream.flush()


if __name__ == "__main__":
    main()
    sys.exit(0)
