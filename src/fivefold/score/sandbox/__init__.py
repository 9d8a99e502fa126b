"""Running untrusted code in isolation: bubblewrap, no network, read-only root, limits on everything.

`run_sandboxed` runs one command and returns; `Session` keeps a sandbox alive for many. A machine that cannot isolate
raises SandboxError: nothing ever runs unsandboxed.
"""

from fivefold.score.sandbox._bwrap import WORK, missing
from fivefold.score.sandbox.limits import MIB, KilledBy, SandboxLimits, SandboxResult
from fivefold.score.sandbox.run import run_sandboxed
from fivefold.score.sandbox.session import SESSION_LIMITS, Session, TooLargeError

__all__ = [
    "MIB",
    "SESSION_LIMITS",
    "WORK",
    "KilledBy",
    "SandboxLimits",
    "SandboxResult",
    "Session",
    "TooLargeError",
    "missing",
    "run_sandboxed",
]
