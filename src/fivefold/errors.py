"""One tree of errors; each says what happened, what was expected, what came, and what to do next.

FivefoldError
├── UsageError            the caller asked for something that cannot be (exit code 2)
│   ├── UnknownNameError  a name that no registry or file holds; the nearest known ones are suggested
│   ├── PlanError         a plan that is not well formed: unknown key, wrong type, missing step
│   └── DataError         a file of cases, labels or records that is empty or malformed
├── MissingExtraError     an optional dependency that is not installed
├── ModelError            a model that cannot be loaded or asked
│   ├── ModelFileError    broken, truncated, unsafe or unsupported model file
│   └── CapabilityError   the model cannot do what the method needs (say, gradients of an API model)
├── JudgeError            a scorer failed: neither a hit nor a pass
├── StoreError            the evidence store cannot be read or written
│   └── TamperedError     a record or artifact does not match its digest or signature
├── SandboxError          code could not be run in isolation
├── BudgetError           a limit of time, tokens or money was reached
└── TrainingError         a training run that cannot start or has diverged
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FivefoldError(Exception):
    """Base of every error that fivefold raises on purpose.

    `what` is one sentence. `expected`, `got` and `next_step` are optional details that the CLI prints on lines of their
    own and `--json` carries as fields. `exit_code` is the process status when the error reaches the command line.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, expected: object | None = None, got: object | None = None, next_step: str | None = None
    ) -> None:
        self.what = what
        self.expected = None if expected is None else str(expected)
        self.got = None if got is None else str(got)
        self.next_step = next_step
        super().__init__(self.render())

    def render(self) -> str:
        """The whole message as a person reads it."""
        lines = [self.what]
        for label, value in (("expected", self.expected), ("got", self.got), ("do", self.next_step)):
            if value is not None:
                lines.append(f"  {label}: {value}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, str | None]:
        """The error as `--json` prints it."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "expected": self.expected,
            "got": self.got,
            "next_step": self.next_step,
        }


class UsageError(FivefoldError):
    """The command, argument or combination makes no sense; nothing was run."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not known; carries the nearest known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, next_step: str | None = None) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = nearest(name, self.known)
        shown = ", ".join(self.known[:12]) + (", …" if len(self.known) > 12 else "")
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else next_step
        super().__init__(f"unknown {kind} {name!r}", expected=f"one of: {shown}" if shown else None, next_step=hint)


class PlanError(UsageError):
    """A plan is not well formed."""


class DataError(UsageError):
    """A data file is empty, malformed or not what its manifest says."""


class MissingExtraError(FivefoldError):
    """An optional dependency is missing; says which extra brings it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {module!r}, which is not installed", next_step=f"pip install 'fivefold[{extra}]'"
        )


class ModelError(FivefoldError):
    """A model cannot be loaded or asked."""


class ModelFileError(ModelError):
    """A model file is broken, truncated, unsafe or of an unsupported kind."""


class CapabilityError(ModelError):
    """The model does not declare a capability that the method needs."""


class JudgeError(FivefoldError):
    """A judge failed to judge. The outcome is `Errored`, never a score."""


class StoreError(FivefoldError):
    """The evidence store cannot be opened, read or written."""


class TamperedError(StoreError):
    """Stored evidence does not match its digest, chain or signature."""


class SandboxError(FivefoldError):
    """Code could not be run in isolation; nothing was scored."""


class BudgetError(FivefoldError):
    """A limit of time, requests, tokens or money was reached."""


class TrainingError(FivefoldError):
    """Training cannot start or has diverged."""


def nearest(name: str, known: Iterable[str], *, n: int = 2) -> list[str]:
    """Up to `n` known names close to `name`, best first."""
    return difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
