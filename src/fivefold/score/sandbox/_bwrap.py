"""The command line that puts a program into the sandbox, and what this machine lacks for it.

Nothing of the host is visible inside but `/usr` and the Python installation, read-only. `/tmp` is the one writable
place, a file system in memory of fixed size. There is no network, no other process, no environment, no capability, no
way to make a namespace. The code runs as an unprivileged user, and started by root it first becomes one: the kernel
exempts root from process limits, even a root that a user namespace calls nobody.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from fivefold.errors import SandboxError
from fivefold.score.sandbox.limits import MIB, SandboxLimits

WORK = "/tmp/work"
NOBODY = 65534
SHM_BYTES = 4 * MIB
OPEN_FILES = 256
INSTALL = "install bubblewrap 0.8 or newer and util-linux (Debian, Ubuntu: apt-get install bubblewrap util-linux)"
NAMESPACES = (
    "let unprivileged users make user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces > 0), or use docker"
)

_NEEDED_OPTIONS = ("--disable-userns", "--json-status-fd", "--seccomp", "--size", "--perms", "--as-pid-1", "--clearenv")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD = b"root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/tmp/work:/bin/sh\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"


@cache
def missing() -> tuple[str, ...]:
    """What this machine lacks to run code in isolation, one line each; empty when nothing is known to be missing."""
    if sys.platform != "linux":
        return (f"the sandbox needs Linux namespaces; this is {sys.platform}: run in a Linux machine or container",)
    tools = ["bwrap", "prlimit"] + (["setpriv", "unshare", "mount"] if os.geteuid() == 0 else [])
    lacking = [tool for tool in tools if _find(tool) is None]
    if lacking:
        return (f"{', '.join(lacking)} not found: {INSTALL}",)
    text = subprocess.run([tool("bwrap"), "--help"], capture_output=True, text=True, check=False, env={}).stdout
    too_old = [option for option in _NEEDED_OPTIONS if option not in text]
    return (f"bubblewrap is too old (lacks {', '.join(too_old)}): {INSTALL}",) if too_old else ()


def require() -> None:
    """Raise SandboxError that says what to do unless code can be run in isolation."""
    if lacking := missing():
        raise SandboxError("untrusted code cannot be run here", got="; ".join(lacking), next_step=INSTALL)


def tool(name: str) -> str:
    """Absolute path of a program that the sandbox is made with; SandboxError when it is not installed."""
    found = _find(name)
    if found is None:
        raise SandboxError(f"{name} is not installed", next_step=INSTALL)
    return found


def argv(
    command: Sequence[str],
    limits: SandboxLimits,
    *,
    files: Mapping[str, int],
    seccomp: int,
    status: int,
    alive: int,
    env: Mapping[str, str],
    options: Sequence[str] = (),
    cpu: bool = True,
) -> list[str]:
    """The whole command line. `files` maps absolute paths inside to open descriptors; `status`, `seccomp` and `alive`
    (see `GATE`) are descriptors as well. `cpu` False leaves processor time unlimited, for a supervisor that limits what it
    starts."""
    inside = ["--unshare-all", "--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY), "--disable-userns"]
    inside += ["--hostname", "sandbox", "--new-session", "--die-with-parent", "--cap-drop", "ALL", *options]
    inside += ["--clearenv"]
    for name, value in {**environment(), **env}.items():
        inside += ["--setenv", name, value]
    inside += [*_system(), "--proc", "/proc", "--dev", "/dev"]
    inside += ["--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    inside += ["--perms", "1777", "--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--dir", WORK]
    inside += ["--dir", "/var", "--symlink", "/tmp", "/var/tmp"]
    for path, descriptor in files.items():
        inside += [*_folders(path, below=WORK), "--perms", "0644", "--file", str(descriptor), path]
    inside += ["--chdir", WORK, "--remount-ro", "/", "--seccomp", str(seccomp), "--json-status-fd", str(status)]
    return [*_unprivileged(), tool("bwrap"), *inside, "--", *_gate(alive), *_limited(limits, cpu), *command]


GATE = """
import os, signal, sys
os.write(int(sys.argv[1]), b".")
os.close(int(sys.argv[1]))
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""The first thing that runs inside. bubblewrap asks the kernel to be killed when its parent dies, but does not look whether
it died before that: a caller killed in the middle of the set-up would leave the sandbox running. Here the set-up is over,
and a write to the pipe that the caller alone can read fails when the caller is gone."""


def _gate(alive: int) -> list[str]:
    return [str(_python_prefix() / "bin" / "python3"), "-I", "-S", "-c", GATE, str(alive)]


def environment() -> dict[str, str]:
    """All environment variables of the sandbox."""
    return {
        "PATH": f"{_python_prefix() / 'bin'}:{_SYSTEM_PATH}",
        "HOME": WORK,
        "TMPDIR": "/tmp",
        "USER": "nobody",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }


def system_files() -> dict[str, bytes]:
    """Files of `/etc` that programs expect, with nothing of the host in them."""
    return {"/etc/passwd": _PASSWD, "/etc/group": _GROUP}


def _limited(limits: SandboxLimits, cpu: bool) -> list[str]:
    """Limits are set inside, where the kernel counts the processes of this sandbox's own user namespace."""
    seconds = limits.cpu_seconds
    out = [tool("prlimit"), f"--as={limits.memory_bytes}", f"--fsize={limits.disk_bytes}", f"--nofile={OPEN_FILES}"]
    out += ["--core=0", f"--nproc={limits.processes}", "--msgqueue=0"]
    return [*out, *([f"--cpu={seconds}:{seconds + 1}"] if cpu else []), "--"]


def _unprivileged() -> list[str]:
    """Started by root: become nobody, and keep a Python below a private folder (say `/root`) within reach.

    Every step replaces the one before, so bubblewrap is a child of the caller and dies with it: the kernel lets a
    parent's death kill a child of another user only when that parent may send it signals.
    """
    if os.geteuid() != 0:
        return []
    drop = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    become = [tool("setpriv"), *drop, "--"]
    if _python_in_usr():
        return become
    bind = f'{tool("mount")} --bind "$1" "$2" && shift 2 && exec "$@"'
    private = [tool("unshare"), "--mount", "--propagation", "private", "--", "/bin/sh", "-c", bind, "sh"]
    return [*private, str(_python_prefix()), _within_reach(), *become]


def _system() -> list[str]:
    """Read-only: `/usr`, what links into it, the linker's cache, and the Python that runs this."""
    out = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            out += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            out += ["--ro-bind", str(path), str(path)]
    out += ["--dir", "/etc"]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        out += ["--ro-bind-try", name, name]
    if not _python_in_usr():
        prefix = str(_python_prefix())
        source = _within_reach() if os.geteuid() == 0 else prefix
        out += [*_folders(prefix, below="/"), "--ro-bind", source, prefix]
    return out


def _within_reach() -> str:
    """A folder that every user can enter, to be covered in a mount namespace of its own."""
    for name in ("/mnt", "/media", "/srv", "/opt"):
        if os.path.isdir(name) and os.stat(name).st_mode & 0o001:
            return name
    raise SandboxError("no folder to show Python at in the sandbox", expected="a folder /mnt", next_step="mkdir /mnt")


def _python_in_usr() -> bool:
    return _python_prefix().is_relative_to("/usr")


def _folders(path: str, *, below: str) -> list[str]:
    """Parent folders of `path` under `below`, made explicitly: those that bubblewrap makes itself admit only root."""
    parents = [p for p in reversed(Path(path).parents) if p.is_relative_to(below) and str(p) != below]
    return [word for p in parents for word in ("--perms", "0755", "--dir", str(p))]


def _python_prefix() -> Path:
    return Path(os.path.realpath(sys.base_prefix))


@cache
def _find(name: str) -> str | None:
    return shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin")
