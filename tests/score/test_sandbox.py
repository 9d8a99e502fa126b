"""Attempts to get out of the sandbox, each of which must fail. Each is a program that says what it could do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from _processes import gone
from fivefold.errors import SandboxError
from fivefold.score.sandbox import (
    MIB,
    WORK,
    SandboxLimits,
    SandboxResult,
    Session,
    TooLargeError,
    _bwrap,
    missing,
    run_sandboxed,
)
from fivefold.score.sandbox._seccomp import program

SMALL = SandboxLimits(
    seconds=60,
    cpu_seconds=10,
    memory_bytes=192 * MIB,
    processes=16,
    disk_bytes=8 * MIB,
    files=300,
    output_bytes=100_000,
)


@cache
def pace(seconds: float) -> float:
    """`seconds` on an idle machine; more where starting a program takes longer than there."""
    started = time.monotonic()
    run_sandboxed({"main.py": b""}, ["python3", "main.py"], limits=limits(seconds=120))
    return seconds + 8 * (time.monotonic() - started)


PRELUDE = """
import ctypes, errno, json, os, signal, socket, subprocess, sys, time
def tried(work):
    try:
        return {"did": repr(work())[:200]}
    except BaseException as error:
        return {"refused": type(error).__name__, "errno": getattr(error, "errno", None)}
"""


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if lacking := missing():
        pytest.fail("these tests need the sandbox: " + "; ".join(lacking))


def python(code: str, *, limits: SandboxLimits = SMALL, stdin: bytes = b"") -> SandboxResult:
    program = PRELUDE + textwrap.dedent(code)
    return run_sandboxed({"main.py": program.encode()}, ["python3", "main.py"], limits=limits, stdin=stdin)


def report(code: str, **options: Any) -> Any:
    result = python(code, **options)
    assert result.ok, result
    return json.loads(result.stdout)


def limits(**changed: Any) -> SandboxLimits:
    return SandboxLimits(**{**vars(SMALL), **changed})


# What must work


def test_runs_code_over_files_with_input() -> None:
    files = {"main.py": b"import sys, pkg.part as p\nprint(p.VALUE + sys.stdin.read())", "pkg/part.py": b"VALUE = 'a'"}
    result = run_sandboxed(files, ["python3", "main.py"], limits=SMALL, stdin=b"b" * 200_000, env={})
    assert result.returncode == 137 and result.killed_by == "output" and result.truncated  # 200 kB come back
    result = run_sandboxed(files, ["python3", "main.py"], limits=SMALL, stdin=b"bc")
    assert (result.ok, result.stdout, result.stderr, result.killed_by) == (True, b"abc\n", b"", None)


def test_the_python_inside_is_the_one_outside() -> None:
    assert report("print(json.dumps(sys.version))") == sys.version


def test_exit_codes_are_the_commands_own() -> None:
    assert python("sys.exit(7)").returncode == 7
    assert python("os.kill(os.getpid(), signal.SIGSEGV)").returncode == 128 + signal.SIGSEGV
    missing_command = run_sandboxed({}, ["no-such-program"], limits=SMALL)
    assert missing_command.returncode == 127 and b"no-such-program" in missing_command.stderr


def test_starting_processes_threads_and_semaphores_works() -> None:
    answer = report(
        """
        import multiprocessing, threading
        threading.Thread(target=lambda: None).start()
        with multiprocessing.Pool(2) as pool:
            squares = pool.map(abs, [-1, -2])
        print(json.dumps([squares, subprocess.run(["sh", "-c", "echo x"], capture_output=True, text=True).stdout]))
        """
    )
    assert answer == [[1, 2], "x\n"]


# Network


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, address = listening.accept()
                except TimeoutError:
                    continue
                seen.append(str(address))
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1], seen
        finally:
            stop.set()
            thread.join()


def test_no_network(server: tuple[int, list[str]]) -> None:
    port, seen = server
    socket.create_connection(("127.0.0.1", port), 5).close()  # the server answers from outside
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0fivefold-sandbox-test")
    abstract.listen()
    with abstract:
        answer = report(
            f"""
            def unix():
                socket.socket(socket.AF_UNIX).connect("\\0fivefold-sandbox-test")
            def serve_and_connect():
                with socket.create_server(("127.0.0.1", 0)) as s:
                    socket.create_connection(s.getsockname(), 2).close()
            print(json.dumps(dict(
                loopback=tried(lambda: socket.create_connection(("127.0.0.1", {port}), 2)),
                outside=tried(lambda: socket.create_connection(("192.0.2.1", 80), 2)),
                name=tried(lambda: socket.getaddrinfo("example.org", 80)),
                abstract=tried(unix),
                vsock=tried(lambda: socket.socket(40, socket.SOCK_STREAM)),
                netlink=tried(lambda: socket.socket(16, socket.SOCK_RAW)),
                packet=tried(lambda: socket.socket(17, socket.SOCK_RAW)),
                raw=tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
                interfaces=[line.split(":")[0].strip() for line in open("/proc/net/dev")][2:],
                own=tried(serve_and_connect),
            )))
            """
        )
    assert answer.pop("interfaces") == ["lo"]
    answer.pop("own")  # its own loopback may be up or down
    assert all("refused" in attempt for attempt in answer.values()), answer
    assert len(seen) == 1  # ours


# Files


def test_host_files_are_not_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    secret.chmod(0o644)
    repository, home = Path(__file__).resolve().parents[2], Path.home()
    targets = ["/etc/shadow", "/etc/hostname", str(secret), str(repository), str(home / ".ssh"), str(home / ".bashrc")]
    targets += [
        "/var/log",
        "/run",
        "/sys",
        "/boot",
        "/var/run/docker.sock",
        "/dev/mem",
        "/dev/sda",
        "/dev/kmsg",
        "/work",
    ]
    answer = report(
        f"""
        links = []
        for i, target in enumerate({targets!r}):
            os.symlink(target, f"link{{i}}")
            links.append(os.path.exists(f"link{{i}}"))
        up = os.path.exists("../../../../../../../.." + {str(secret)!r})
        roots = [os.path.exists(f"/proc/{{p}}/root" + {str(secret)!r}) for p in os.listdir("/proc") if p.isdigit()]
        print(json.dumps(dict(
            there=[t for t in {targets!r} if os.path.exists(t)], links=links, up=up, roots=roots,
            passwd=open("/etc/passwd").read(), top=sorted(os.listdir("/")),
        )))
        """
    )
    assert answer["there"] == [] and not any(answer["links"]) and not answer["up"] and not any(answer["roots"])
    assert len(answer["passwd"].splitlines()) == 2
    assert set(answer["top"]) <= {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "tmp", "usr", "var"} | {
        _bwrap._python_prefix().parts[1]
    }


def test_nothing_can_be_written_but_the_working_disk() -> None:
    answer = report(
        """
        def put(path, text):
            with open(path, "w") as file:
                file.write(text)
        places = ["/", "/usr", "/usr/bin", "/etc", "/proc", "/dev", "/var", "/proc/sys/kernel", sys.prefix]
        print(json.dumps(dict(
            written=[p for p in places if "did" in tried(lambda: open(p + "/x", "w"))],
            replaced=tried(lambda: open(sys.executable, "r+b")),
            passwd=tried(lambda: open("/etc/passwd", "a")),
            sysctl=tried(lambda: put("/proc/sys/kernel/hostname", "x")),
            score=tried(lambda: put("/proc/self/oom_score_adj", "-1000")),
            here=tried(lambda: put("x", "x")),
        )))
        """
    )
    assert answer.pop("written") == []
    assert answer.pop("here") == {"did": "None"}
    assert all("refused" in attempt for attempt in answer.values()), answer


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", ".", "a/../b", "x\0y"])
def test_a_file_cannot_be_placed_outside(name: str) -> None:
    with pytest.raises(SandboxError, match="no place in the sandbox"):
        run_sandboxed({name: b""}, ["true"], limits=SMALL)


def test_two_names_of_one_file_are_refused() -> None:
    with pytest.raises(SandboxError, match="no place"):
        run_sandboxed({"a//b": b"1", "a/b": b"2"}, ["true"], limits=SMALL)


# Other processes and privileges


def test_the_host_cannot_be_seen_or_signalled() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    os.environ["FIVEFOLD_TEST_SECRET"] = "hidden"
    try:
        answer = report(
            f"""
            host = [{os.getpid()}, {os.getppid()}, {sleeper.pid}]
            pids = sorted(int(p) for p in os.listdir("/proc") if p.isdigit())
            print(json.dumps(dict(
                pids=pids, ppid=os.getppid(),
                killed=[p for p in host if p not in pids and "did" in tried(lambda: os.kill(p, 9))],
                environ=open("/proc/1/environ").read() + repr(dict(os.environ)),
                all=tried(lambda: os.kill(-1, 0)), parent=tried(lambda: os.kill(1, 9)),
                session=os.getsid(0) == os.getpid() or os.getsid(0) in pids,
            )))
            """
        )
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()
        del os.environ["FIVEFOLD_TEST_SECRET"]
    assert answer["killed"] == [] and answer["pids"] == [1, 2] and answer["ppid"] == 1
    assert "FIVEFOLD_TEST_SECRET" not in answer["environ"] and answer["session"]


def test_no_privileges_and_no_way_to_get_them() -> None:
    answer = report(
        """
        libc = ctypes.CDLL(None, use_errno=True)
        def call(name, *arguments):
            def work():
                ctypes.set_errno(0)
                if getattr(libc, name)(*arguments) == -1:
                    raise OSError(ctypes.get_errno(), name)
            return tried(work)
        status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        fds = [f for f in range(3, 256) if "did" in tried(lambda: os.fstat(f))]
        NEWUSER, NEWNS = 0x10000000, 0x00020000
        print(json.dumps(dict(
            uid=[os.getuid(), os.geteuid(), os.getgid()], groups=os.getgroups(),
            caps=[status[c] for c in ("CapPrm", "CapEff", "CapBnd", "CapAmb")], nnp=status["NoNewPrivs"],
            seccomp=status["Seccomp"], descriptors=fds,
            attempts=dict(
                setuid=call("setuid", 0), newuser=call("unshare", NEWUSER), newns=call("unshare", NEWNS),
                mount=call("mount", b"none", b"/tmp", b"tmpfs", 0, None), chroot=call("chroot", b"/tmp"),
                ptrace=call("ptrace", 0, 0, None, None), syscall_bpf=call("syscall", 321, 0, None, 0),
                memfd=call("memfd_create", b"x", 0), shm=call("shmget", 0, 1 << 20, 0o1600),
                personality=call("personality", 0x40000), sethostname=call("sethostname", b"x", 1),
                raise_nproc=tried(lambda: __import__("resource").setrlimit(6, (1000, 1000))),
                raise_as=tried(lambda: __import__("resource").setrlimit(9, (-1, -1))),
                sudo=tried(lambda: subprocess.run(["su", "-c", "id"], check=True, capture_output=True, timeout=5)),
                nice=tried(lambda: os.setpriority(0, 0, -5)),
            ),
        )))
        """
    )
    assert answer["uid"] == [65534] * 3 and set(answer["groups"]) <= {65534}
    assert set(answer["caps"]) == {"0" * 16} and answer["nnp"] == "1" and answer["seccomp"] == "2"
    assert answer["descriptors"] == []
    assert {name for name, attempt in answer["attempts"].items() if "did" in attempt} == set()


def test_namespaces_cannot_be_made_by_clone_either() -> None:
    answer = report(
        """
        libc = ctypes.CDLL(None, use_errno=True)
        number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
        out = {}
        for flag in (0x00020000, 0x10000000, 0x20000000, 0x40000000):
            pid = libc.syscall(number, flag | signal.SIGCHLD, 0, 0, 0, 0)
            if pid == 0:
                os._exit(0)
            out[hex(flag)] = [pid, ctypes.get_errno()]
        print(json.dumps([out, libc.syscall(435, 0, 0), ctypes.get_errno() == errno.ENOSYS]))
        """
    )
    assert all(got == [-1, 1] for got in answer[0].values()), answer
    assert answer[1:] == [-1, True]


# Limits


def test_a_fork_bomb_stays_small_and_ends() -> None:
    started = time.monotonic()
    result = python(
        """
        alive = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(600)
                alive += 1
        except OSError:
            print(alive, flush=True)
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        limits=limits(seconds=pace(0.5)),
    )
    assert result.timed_out and result.killed_by == "time" and result.returncode == 137
    assert 1 <= int(result.stdout.split()[0]) <= SMALL.processes
    assert time.monotonic() - started < pace(0.5) + 30


def test_threads_count_as_processes() -> None:
    code = """
    import threading
    made = 0
    try:
        for _ in range(100):
            threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
            made += 1
    except RuntimeError:
        pass
    print(made, flush=True)
    os._exit(0)
    """
    assert int(python(code).stdout) < SMALL.processes


def test_memory_of_one_process_is_limited() -> None:
    result = python("x = bytearray(300 * 2**20)")
    assert result.returncode == 1 and b"MemoryError" in result.stderr


def test_memory_of_all_processes_together_is_limited() -> None:
    result = python(
        """
        for _ in range(3):
            os.fork()
        x = bytearray(40 * 2**20)
        time.sleep(60)
        """,
        limits=limits(memory_bytes=96 * MIB),
    )
    assert result.killed_by == "memory" and result.returncode == 137 and not result.timed_out


def test_disk_is_limited_in_bytes_and_in_files() -> None:
    answer = report(
        """
        def fill(folder):
            for i in range(100):
                with open(f"{folder}/f{i}", "wb") as f:
                    f.write(b"x" * 2**20)
        print(json.dumps([tried(lambda: fill(".")), tried(lambda: fill("/tmp")), tried(lambda: fill("/dev/shm")),
                          tried(lambda: open("sparse", "wb").truncate(2**40))]))
        """
    )
    assert [a.get("refused") for a in answer] == ["OSError"] * 4
    result = python("for i in range(100_000): open(f'f{i}', 'w').close()\ntime.sleep(60)")
    assert result.killed_by == "files"


def test_output_is_limited() -> None:
    for stream in ("stdout", "stderr"):
        result = python(f"while True: sys.{stream}.write('x' * 10_000)")
        assert result.killed_by == "output" and result.truncated and result.returncode == 137
        assert len(getattr(result, stream)) == SMALL.output_bytes


def test_time_is_limited_asleep_awake_and_detached() -> None:
    started = time.monotonic()
    assert python("time.sleep(600)", limits=limits(seconds=0.5)).timed_out
    assert python(
        "signal.signal(15, signal.SIG_IGN)\nos.close(1); os.close(2); time.sleep(600)", limits=limits(seconds=0.5)
    ).timed_out
    assert time.monotonic() - started < 30
    assert python("while True: pass", limits=limits(cpu_seconds=1)).killed_by == "cpu"


def test_nothing_is_left_behind() -> None:
    marker = "31536001.25"
    code = f"""
    for detached in (False, True):
        subprocess.Popen(["sleep", "{marker}"], start_new_session=detached)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "{marker}"])
        os._exit(0)
    print("done")
    """
    started = time.monotonic()
    result = python(code)
    assert result.ok and result.stdout == b"done\n"
    assert time.monotonic() - started < 30
    assert gone(marker)


# When it cannot work


def test_a_machine_without_bubblewrap_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bwrap, "_find", lambda name: None)
    _bwrap.missing.cache_clear()
    try:
        with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
            run_sandboxed({}, ["true"])
    finally:
        monkeypatch.undo()
        _bwrap.missing.cache_clear()


def test_a_sandbox_that_fails_is_an_error_and_never_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _bwrap._system
    monkeypatch.setattr(_bwrap, "_system", lambda: [*original(), "--ro-bind", "/no-such-folder", "/x"])
    with pytest.raises(SandboxError, match="no-such-folder"):
        run_sandboxed({}, ["true"], limits=SMALL)
    with pytest.raises(SandboxError, match="no-such-folder"):
        Session(limits=SMALL).start()


def test_a_program_cannot_pose_as_a_failed_sandbox() -> None:
    result = python("sys.stderr.write('bwrap: setting up uid map: Permission denied'); sys.exit(1)")
    assert result.returncode == 1 and result.killed_by is None


def test_the_filter_exists_for_both_machines_and_no_other() -> None:
    assert program("x86_64") != program("aarch64") and len(program("aarch64")) % 8 == 0
    with pytest.raises(SandboxError, match="riscv64"):
        program("riscv64")


# The sandbox that stays


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    made = Session(limits=limits(processes=24)).start()
    yield made
    made.close()


def test_a_session_keeps_files_and_processes(session: Session) -> None:
    session.write("folder/data.bin", b"\x00\xff" * 1000)
    assert session.read("folder/data.bin") == b"\x00\xff" * 1000
    assert session.exec(["wc", "-c"], stdin=b"x" * 300_000).stdout.strip() == b"300000"
    assert session.exec(["sh", "-c", "sleep 31536003 & echo started"]).stdout == b"started\n"
    assert b"31536003" in session.exec(["ps", "ax"]).stdout
    assert session.exec(["pwd"], cwd="folder").stdout == f"{WORK}/folder\n".encode()
    assert session.exec(["sh", "-c", "echo $A"], env={"A": "b"}).stdout == b"b\n"
    assert session.exec(["false"]).returncode == 1 and session.exec(["no-such-program"]).returncode == 127


def test_a_session_reads_no_file_of_the_host_through_a_link(session: Session, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden")
    for target in ("/etc/shadow", str(tmp_path / "secret"), "/proc/1/environ", "/proc/1/mem", "/proc/1/fd/0"):
        session.exec(["ln", "-sfn", target, "link"])
        with pytest.raises((FileNotFoundError, PermissionError)):
            session.read("link")
    session.exec(["ln", "-sfn", str(tmp_path), "folder-link"])
    with pytest.raises(OSError):
        session.write("folder-link/made", b"x")
    assert not (tmp_path / "made").exists()


def test_special_files_do_not_hang_a_session(session: Session) -> None:
    session.exec(["mkfifo", "pipe"])
    for path in ("pipe", "/dev/zero", "/dev/tty"):
        with pytest.raises(OSError):
            session.read(path)
    session.write("large", b"x" * 2000)
    with pytest.raises(TooLargeError):
        session.read("large", max_bytes=1999)


def test_a_session_outlives_attempts_to_kill_it(session: Session) -> None:
    session.exec(["sh", "-c", "kill -9 1; kill -INT 1; kill -TERM 1; kill -STOP 1; kill -9 -1"])
    assert session.exec(["sleep", "60"], seconds=0.3).timed_out
    assert session.exec(["yes"]).killed_by == "output"
    assert session.exec(["sh", "-c", "ls /proc/1/fd/; cat /proc/1/environ"]).stdout == b""
    assert session.exec(["echo", "alive"]).stdout == b"alive\n"


def test_a_session_outlives_a_fork_bomb(session: Session) -> None:
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    assert session.exec(["python3", "-c", bomb], seconds=pace(0.2)).timed_out
    assert session.exec(["echo", "alive"]).stdout == b"alive\n"
    detached = "import os\nos.fork() or os.setsid()\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    made = Session(limits=SMALL).start()
    try:
        started = time.monotonic()
        with pytest.raises(SandboxError, match="could not do what was asked"):
            made.exec(["python3", "-c", detached], seconds=pace(0.2))
            while time.monotonic() - started < 60:
                made.exec(["true"])
    finally:
        made.close()


def test_a_closed_session_is_an_error() -> None:
    marker = "31536004"
    made = Session(limits=SMALL).start()
    made.exec(["sh", "-c", f"sleep {marker} & true"])
    made.close()
    with pytest.raises(SandboxError, match="gone"):
        made.exec(["true"])
    assert gone(marker)
    with pytest.raises(SandboxError, match="never started"):
        Session().exec(["true"])
