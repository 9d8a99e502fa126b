"""How extensions are found: the file's name is the registered name; outsiders use entry points.

A kind is a package folder (say `fivefold.redteam.attacks`) in which every module that does not start with an underscore
is one extension, and an entry-point group (`fivefold.attack`) for packages of others. Both go through `Registry`, so
built-ins and outsiders share one path. Names use hyphens or underscores alike. Nothing is imported early.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from fivefold.errors import FivefoldError, UnknownNameError, UsageError

KINDS: dict[str, str] = {
    "attack": "fivefold.redteam.attacks",
    "transform": "fivefold.redteam.transforms",
    "loss": "fivefold.align.losses",
    "recipe": "fivefold.align.recipes",
    "benchmark": "fivefold.evaluate.benchmarks",
    "evaluation": "fivefold.evaluate.safety",
    "scorer": "fivefold.score.scorers",
    "guard": "fivefold.guard.guards",
    "method": "fivefold.interpret.methods",
    "backend": "fivefold.runtime.backends",
}
"""Kind → package whose modules are the built-in extensions of that kind."""


_NAMED = re.compile(r"^\s*([A-Za-z][\w-]*)\s*(?:\((.*)\))?\s*$", re.DOTALL)


def named(text: str) -> tuple[str, dict[str, Any]] | None:
    """The extension that `name` or `name(option=value, …)` names, with its options (values are YAML); None for anything
    else. UsageError for parentheses that hold no options."""
    match = _NAMED.match(text)
    return (match[1].replace("-", "_"), _options(match[2] or "", text)) if match else None


def check_options(factory: Callable[..., Any], name: str, options: Iterable[str], taken: Iterable[str] = ()) -> None:
    """UnknownNameError for an option that the factory of `name` does not take, UsageError for one that it needs."""
    left_out, given = set(taken), set(options)
    parameters = {n: p for n, p in inspect.signature(factory).parameters.items() if n not in left_out}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    if unknown := sorted(given - set(parameters)):
        raise UnknownNameError(f"option of {name}", unknown[0], parameters)
    for option, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and option not in given:
            raise UsageError(f"{name} needs the option {option!r}", expected=f"{name}({option}=…)")


def _options(text: str, whole: str) -> dict[str, Any]:
    import yaml

    if not text.strip():
        return {}
    try:
        found = yaml.safe_load("{" + re.sub(r"(^|[,{(\[])\s*(\w+)\s*=\s*", r"\1 \2: ", text) + "}")
    except yaml.YAMLError as error:
        raise UsageError(f"not options: {text!r} in {whole!r}", expected="name=value, name=value") from error
    if not isinstance(found, dict) or any(v is None for v in found.values()):
        raise UsageError(f"not options: {text!r} in {whole!r}", expected="name=value, name=value")
    return {str(k): v for k, v in found.items()}


@dataclass(frozen=True)
class Registry:
    """All extensions of one kind."""

    kind: str

    @property
    def package(self) -> str:
        """The package folder of the built-ins."""
        return KINDS[self.kind]

    def names(self) -> list[str]:
        """Every registered name, sorted; nothing is imported but the package folder."""
        return sorted({*self._builtin(), *self._outside()})

    def module(self, name: str) -> ModuleType:
        """The module of extension `name`; raises UnknownNameError with the nearest names."""
        key = name.replace("-", "_")
        outside = self._outside()
        if key in outside:
            loaded = outside[key].load()
            if not isinstance(loaded, ModuleType):
                raise FivefoldError(
                    f"entry point {outside[key].value!r} of group 'fivefold.{self.kind}' is not a module",
                    expected="a module that holds the extension",
                    got=type(loaded).__name__,
                )
            return loaded
        if key not in self._builtin():
            raise UnknownNameError(self.kind, name, self.names())
        return importlib.import_module(f"{self.package}.{key}")

    def summary(self, name: str) -> str:
        """First line of the extension's docstring."""
        return (self.module(name).__doc__ or "").strip().split("\n")[0]

    def _builtin(self) -> list[str]:
        return _modules_of(self.package)

    def _outside(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in _entries(f"fivefold.{self.kind}", tuple(sys.path)):
            key = entry.name.replace("-", "_")
            if key in found or key in self._builtin():
                raise FivefoldError(
                    f"two extensions of kind {self.kind!r} are called {entry.name!r}", next_step="rename one of them"
                )
            found[key] = entry
        return found


@cache
def _entries(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group; looking for them reads every installed package, so once for each import path."""
    return tuple(entry_points(group=group))


@cache
def _modules_of(package: str) -> list[str]:
    paths = importlib.import_module(package).__path__
    return [m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_")]


def registry(kind: str) -> Registry:
    """The registry of a kind; raises UnknownNameError for a kind that does not exist."""
    if kind not in KINDS:
        raise UnknownNameError("kind of extension", kind, KINDS)
    return Registry(kind)
