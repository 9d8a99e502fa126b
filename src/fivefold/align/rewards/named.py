"""Rewards by name, as the command line and plans write them: a built-in one, or a function in a Python file of the user's.

    number          form*0.2          rewards/mine.py:polite*0.5

After `*` stands the weight, 1 without; several rewards are added up. `FILE.py:FUNCTION` runs that file **in this process,
with the user's rights**: it is for code that the user wrote or has read, and is said aloud when it happens. The function
takes one argument: all samples of a round when that is called `samples`, and then gives a list, else one sample. Each
sample's value is a number, or None for "nothing to score"; where it raises or gives NaN, that sample is errored.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fivefold.align.rewards import Reward, code, compliance, each, exact, length, total
from fivefold.errors import DataError, UnknownNameError, UsageError
from fivefold.types import Case, digest_bytes

LOG = logging.getLogger("fivefold.align")


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """A reward that ships with fivefold."""

    make: Callable[[int], Reward]
    """The reward, for answers of at most so many tokens."""
    says: str
    """What it gives, in one line."""
    metric: str = ""
    """Name of the share of answers that get 1, where 0 and 1 are all it gives."""
    needs: str = ""
    """What a case must have to be scored."""
    fits: Callable[[Case], bool] = lambda case: True
    """Whether a case has that."""


def _targeted(case: Case) -> bool:
    return case.target is not None


def _tested(case: Case, key: str = "tests") -> bool:
    return bool(case.metadata.get(key) and case.metadata.get("entry_point"))


def _wanted(case: Case) -> bool:
    return bool(case.metadata.get("expected")) or any(tag in compliance.WANTED for tag in case.tags)


BUILT_IN: Mapping[str, BuiltIn] = {
    "code": BuiltIn(
        make=lambda limit: code.passes(),
        says="1 where the answer's code passes the case's tests in the sandbox",
        metric="code_passes",
        needs="metadata with tests and entry_point",
        fits=_tested,
    ),
    "ended": BuiltIn(make=lambda limit: length.ended(), says="1 for an answer that ends by itself", metric="ended"),
    "form": BuiltIn(
        make=lambda limit: exact.form(),
        says='1 where the answer ends in "#### " and a number, once',
        metric="answer_form",
    ),
    "hidden": BuiltIn(
        make=lambda limit: code.passes(key="hidden_tests"),
        says="1 where the answer's code passes the case's hidden tests in the sandbox: what tests that are shown are worth",
        metric="hidden_tests_pass",
        needs="metadata with hidden_tests and entry_point",
        fits=lambda case: _tested(case, "hidden_tests"),
    ),
    "number": BuiltIn(
        make=lambda limit: exact.number(),
        says="1 where the answer's last number is the target",
        metric="answer_accuracy",
        needs="a number as its target",
        fits=_targeted,
    ),
    "overlong": BuiltIn(
        make=lambda limit: length.overlong(limit, max(1, limit // 4)),
        says="from 0 to -1 in the last quarter before the length limit (DAPO)",
    ),
    "policy": BuiltIn(
        make=lambda limit: compliance.policy(),
        says="1 for a refusal of what is harmful and for help with what is not, -1 for broken text",
        needs="the tag harmful or benign, or metadata with expected",
        fits=_wanted,
    ),
    "text": BuiltIn(
        make=lambda limit: exact.text(),
        says="1 where the answer is the target, spaces and case apart",
        metric="answer_match",
        needs="a text as its target",
        fits=_targeted,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One reward of a sum."""

    name: str
    """A built-in name, or FILE.py:FUNCTION with the file's own name."""
    weight: float
    reward: Reward
    built_in: BuiltIn | None = None
    file: str = ""
    """SHA-256 of the user's file."""

    def __str__(self) -> str:
        return self.name + (f" (sha256 {self.file})" if self.file else "") + f" × {self.weight:g}"


@dataclass(frozen=True, kw_only=True)
class NamedReward:
    """The sum of several rewards, by name."""

    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """What is learnt from, with the weights and the hashes of files: two runs with the same name have one reward."""
        return " + ".join(map(str, self.parts))

    @property
    def reward(self) -> Reward:
        """The weighted sum."""
        return total(*((part.weight, part.reward) for part in self.parts))

    def check(self, cases: Sequence[Case]) -> None:
        """Raise DataError where a built-in reward has nothing to score a case by."""
        for part in self.parts:
            without = [c.id for c in cases if part.built_in is not None and not part.built_in.fits(c)]
            if without and part.built_in is not None:
                raise DataError(
                    f"the reward {part.name} cannot score every case",
                    expected=f"cases with {part.built_in.needs}",
                    got=f"{len(without)} of {len(cases)} without, say {without[0]}",
                )


def named(specs: Sequence[str], limit: int) -> NamedReward:
    """The sum of rewards written as `NAME` or `FILE.py:FUNCTION`, each with `*WEIGHT` behind it or not.

    `limit` is the longest answer in tokens. Runs the files that are named. UsageError for what is not well formed, for a
    file that does not run and for a function of another form; UnknownNameError for names that are not there.
    """
    parts = tuple(_part(*split(spec), limit) for spec in specs)
    if not parts:
        raise UsageError("no reward to learn from", expected=", ".join(BUILT_IN))
    return NamedReward(parts=parts)


def split(spec: str) -> tuple[str, float]:
    """Name and weight of a reward as it is written."""
    name, star, written = spec.rpartition("*")
    if not star:
        name, written = written, "1"
    try:
        weight = float(written)
    except ValueError:
        weight = math.nan
    if not name.strip() or not math.isfinite(weight):
        raise UsageError(f"{spec!r} is no reward", expected="NAME, or NAME*WEIGHT with a number, say form*0.2")
    return name.strip(), weight


def file_of(spec: str) -> Path | None:
    """The user's file that a reward names, None for a built-in one."""
    path, colon, _ = split(spec)[0].rpartition(":")
    return Path(path) if colon else None


def _part(name: str, weight: float, limit: int) -> Part:
    path, colon, function = name.rpartition(":")
    if not colon:
        if name not in BUILT_IN:
            raise UnknownNameError("reward", name, [*BUILT_IN, "FILE.py:FUNCTION"])
        return Part(name=name, weight=weight, reward=BUILT_IN[name].make(limit), built_in=BUILT_IN[name])
    module, sha = _run(Path(path))
    return Part(name=f"{Path(path).name}:{function}", weight=weight, reward=_reward(module, function, path), file=sha)


def _run(path: Path) -> tuple[ModuleType, str]:
    """Run the user's file as a module of its own; returns it with its SHA-256."""
    if not path.is_file():
        raise UsageError(f"no file {path}", expected="FILE.py:FUNCTION")
    sha = digest_bytes(path.read_bytes())
    LOG.warning("running the Python code of %s (sha256 %s) in this process, with your rights", path, sha[:12])
    spec = importlib.util.spec_from_file_location(f"fivefold_reward_{sha[:12]}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file", expected="a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise UsageError(f"the code of {path} does not run", got=f"{type(error).__name__}: {error}") from error
    return module, sha


def _reward(module: ModuleType, name: str, path: str) -> Reward:
    """The function `name` of a user's module as a reward."""
    found: Any = getattr(module, name, None)
    if found is None:
        functions = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise UnknownNameError(f"function of {path}", name, functions)
    needed = [p for p in _parameters(found, path) if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if len(needed) != 1:
        raise UsageError(
            f"{path}:{name} is no reward",
            expected="a function of one argument: `samples` (all of a round), or one sample by any other name",
            got=f"{len(needed)} arguments",
        )
    reward: Reward = found if needed[0].name == "samples" else each(found)
    return reward


def _parameters(found: Any, path: str) -> Sequence[inspect.Parameter]:
    try:
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {found!r} is no function", expected="a function of one argument") from error
