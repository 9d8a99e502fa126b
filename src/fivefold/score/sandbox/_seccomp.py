"""The system-call filter of the sandbox: a classic BPF program for `bwrap --seccomp`, written without libseccomp.

Namespaces, a read-only root and resource limits do the isolating; the filter takes away kernel surface that untrusted
code has no use for, and what those do not cover: memory that no limit counts (memfd, System V), socket families that
no network namespace holds (vsock), new namespaces, tracing, input to a terminal. Refused calls fail with an error
instead of killing, so ordinary programs that probe for them go on. Format: linux/seccomp.h, linux/bpf_common.h.
"""

from __future__ import annotations

import errno
import platform
import struct

from fivefold.errors import SandboxError

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Call -> number on (x86_64, aarch64); None where the machine has no such call.
REFUSED: dict[str, tuple[int, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "ioperm": (173, None),
    "iopl": (172, None),
    "vhangup": (153, 58),
    "vmsplice": (278, 75),
    "move_pages": (279, 239),
    "mbind": (237, 235),
}
CLONE, CLONE3 = (56, 220), (435, 435)
SOCKETS = ((41, 198), (53, 199))  # socket, socketpair
IOCTL = (16, 29)
FAMILIES = (1, 2, 10)  # unix, inet, inet6
TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
X32_BIT = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _fail(error: int) -> bytes:
    return _op(_RETURN, _ERRNO | error)


def _refuse(number: int, error: int) -> bytes:
    return _op(_EQUAL, number, 0, 1) + _fail(error)


def _only_arguments(number: int, offset: int, allowed: tuple[int, ...], error: int) -> bytes:
    """Allow the call when its argument (low 32 bits) is one of `allowed`."""
    n = len(allowed)
    tests = b"".join(_op(_EQUAL, value, n - i, 0) for i, value in enumerate(allowed))
    body = _op(_LOAD, offset) + tests + _fail(error) + _op(_RETURN, _ALLOW)
    return _op(_EQUAL, number, 0, len(body) // 8) + body


def _not_arguments(number: int, offset: int, refused: tuple[int, ...], error: int) -> bytes:
    n = len(refused)
    tests = b"".join(_op(_EQUAL, value, n - i, 0) for i, value in enumerate(refused))
    body = _op(_LOAD, offset) + tests + _op(_RETURN, _ALLOW) + _fail(error)
    return _op(_EQUAL, number, 0, len(body) // 8) + body


def _without_bits(number: int, offset: int, bits: int, error: int) -> bytes:
    body = _op(_LOAD, offset) + _op(_ANY_BIT, bits, 0, 1) + _fail(error) + _op(_RETURN, _ALLOW)
    return _op(_EQUAL, number, 0, len(body) // 8) + body


def program(machine: str = "") -> bytes:
    """The filter for `machine` (default: this one) as the bytes that bubblewrap loads."""
    machine = machine or platform.machine()
    if machine not in AUDIT_ARCH:
        raise SandboxError(
            "the sandbox has no system-call filter for this kind of machine",
            expected=" or ".join(AUDIT_ARCH),
            got=machine,
            next_step="run the evaluation on one of these, or in docker",
        )
    which = list(AUDIT_ARCH).index(machine)
    parts = [_op(_LOAD, _ARCH), _op(_EQUAL, AUDIT_ARCH[machine], 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER)]
    if machine == "x86_64":
        parts.append(_op(_AT_LEAST, X32_BIT, 0, 1) + _fail(errno.ENOSYS))
    for numbers in REFUSED.values():
        if (number := numbers[which]) is not None:
            parts.append(_refuse(number, errno.EPERM))
    # clone3 hides its flags behind a pointer; libraries fall back to clone when it does not exist.
    parts.append(_refuse(CLONE3[which], errno.ENOSYS))
    parts.append(_without_bits(CLONE[which], _ARG0, NEW_NAMESPACES, errno.EPERM))
    parts += [_only_arguments(call[which], _ARG0, FAMILIES, errno.EAFNOSUPPORT) for call in SOCKETS]
    parts.append(_not_arguments(IOCTL[which], _ARG1, TERMINAL_INPUT, errno.EPERM))
    return b"".join(parts) + _op(_RETURN, _ALLOW)
