"""Change a nested frozen configuration by dotted names: `rl.rounds=4`, `sft.lr=1e-4`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import yaml

from fivefold.errors import UnknownNameError, UsageError

T = TypeVar("T")


def overridden(config: T, changes: Sequence[str]) -> T:
    """`config` with `name=value` changes; values are YAML. An unknown name or a value of another type is refused."""
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UsageError(f"{change!r} is no change", expected="name=value, say rl.rounds=4")
        config = _changed(config, name.strip().split("."), yaml.safe_load(text), name.strip())
    return config


def _changed(config: T, path: list[str], value: Any, whole: str) -> T:
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    known = {f.name for f in dataclasses.fields(config)}
    if path[0] not in known:
        raise UnknownNameError("setting", whole, known)
    old = getattr(config, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(old):
            raise UsageError(f"{whole}: {path[0]} has no settings of its own")
        new: Any = _changed(old, path[1:], value, whole)
    else:
        new = _like(old, value, whole)
    return dataclasses.replace(config, **{path[0]: new})


def _like(old: Any, value: Any, whole: str) -> Any:
    """`value` in the type of what stands there; 1e-4, which YAML reads as text, is a number where one is wanted."""
    if isinstance(old, float) and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(old, tuple) and isinstance(value, list):
        return tuple(value)
    elif old is None or type(old) is type(value) or (isinstance(old, dict) and isinstance(value, dict)):
        return value
    raise UsageError(f"{whole} does not take this value", expected=type(old).__name__, got=repr(value))
