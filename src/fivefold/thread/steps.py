"""What a step is: a named piece of a run whose result is kept under the digest of everything it depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import fivefold
from fivefold.runtime.protocol import Cost
from fivefold.thread.plan import Plan
from fivefold.types import digest

if TYPE_CHECKING:
    from fivefold.thread.context import Context

Result = dict[str, Any]
"""What a step leaves behind: plain JSON, with measurements, findings and artifacts by id."""


class Progress(Protocol):
    """What a run tells whoever watches it."""

    def plan(self, steps: list[tuple[str, str, Cost]], budget: float | None) -> None:
        """Called once before work starts, with (name, title, cost) of every step."""
        ...

    def start(self, name: str, title: str) -> None:
        """A step starts."""
        ...

    def advance(self, done: float, total: float, note: str = "") -> None:
        """The running step has done `done` of `total` units of work."""
        ...

    def finish(self, name: str, seconds: float, summary: str, *, reused: bool) -> None:
        """A step is done; `reused` when its result was already in the store."""
        ...

    def say(self, text: str) -> None:
        """One line worth reading now."""
        ...


class Quiet:
    """A watcher that shows nothing."""

    def plan(self, steps: list[tuple[str, str, Cost]], budget: float | None) -> None:
        """Ignore."""

    def start(self, name: str, title: str) -> None:
        """Ignore."""

    def advance(self, done: float, total: float, note: str = "") -> None:
        """Ignore."""

    def finish(self, name: str, seconds: float, summary: str, *, reused: bool) -> None:
        """Ignore."""

    def say(self, text: str) -> None:
        """Ignore."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured or assumed speeds that turn counts into minutes: tokens per second on this machine."""

    prompt: float = 700.0
    completion: float = 110.0
    train: float = 300.0
    source: str = "assumed for two CPU cores in fp32; measured after the first run"

    def minutes(self, cost: Cost) -> float:
        """Wall minutes for the token counts in `cost`."""
        seconds = (
            cost.prompt_tokens / self.prompt + cost.completion_tokens / self.completion + cost.train_tokens / self.train
        )
        return seconds / 60


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step. `code` names the sub-packages whose source is part of its key; `params` the part of the plan it
    reads."""

    name: str
    title: str
    needs: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    params: Callable[[Plan], Any] = field(default=lambda plan: None)
    cost: Callable[[Plan], Cost] = field(default=lambda plan: Cost())
    run: Callable[[Context], Result]
    summary: Callable[[Result], str] = field(default=lambda result: "")


def step_key(step: Step, plan: Plan, subject: str, keys: Mapping[str, str]) -> str:
    """Digest of code, model, parameters and the keys of everything the step needs."""
    return digest(
        {
            "step": step.name,
            "code": code_digest(("types", "thread", *step.code)),
            "params": step.params(plan),
            "seed": plan.seed,
            "subject": subject,
            "needs": {n: keys[n] for n in step.needs if n in keys},
        }
    )


@cache
def code_digest(packages: tuple[str, ...]) -> str:
    """SHA-256 over the source and data files of fivefold's sub-packages."""
    root = Path(fivefold.__file__).parent
    hasher = hashlib.sha256()
    for package in sorted(set(packages)):
        for path in sorted((root / package).rglob("*")):
            parts = path.relative_to(root).parts
            if path.is_file() and not any(p.startswith(".") or p == "__pycache__" for p in parts):
                hasher.update(str(path.relative_to(root)).encode())
                hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()
