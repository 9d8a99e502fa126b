"""Change a nested frozen configuration by dotted names: `rl.rounds=4`, `train.loss_options.beta=0.2`, `mix.en.framed=8`."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from fivefold.align._loop import TrainConfig
from fivefold.align.losses._base import config_of, load
from fivefold.errors import UnknownNameError, UsageError

T = TypeVar("T")


def overridden(config: T, changes: Sequence[str]) -> T:
    """`config` with `name=value` changes; values are YAML, and `none` is none where a setting may be that. An unknown name or
    a value of another type is refused.

    Whether settings go together is looked at when all of them are in, so their order is free; of two changes of one
    setting the later holds.
    """
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{change!r} is no change", expected="name=value, say rl.rounds=4")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{name.strip()}: {text!r} cannot be read", expected="a YAML value") from error
        config = _changed(config, name.strip().split("."), value, name.strip())
    config = _made_anew(config)
    check_losses(config)
    return config


def check_losses(config: Any) -> None:
    """Raise UnknownNameError for a loss, or an option of one, that is not there, wherever it stands in a configuration: a
    recipe of several stages then fails before its first."""
    if isinstance(config, TrainConfig):
        config_of(load(config.loss), config.loss_options)
    elif dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            check_losses(getattr(config, field.name))


def trained_weights(config: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Every training in a configuration by its dotted name, with what it trains: all weights, or an adapter."""
    if isinstance(config, TrainConfig):
        yield above.rstrip("."), "all weights" if config.adapter is None else "an adapter"
    elif dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            yield from trained_weights(getattr(config, field.name), f"{above}{field.name}.")


def changes_of(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The same changes from a nested mapping, as a plan writes them."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from changes_of(value, f"{above}{name}.")
        else:
            yield f"{above}{name}={json.dumps(value, ensure_ascii=False)}"


def _changed(config: T, path: list[str], value: Any, whole: str) -> T:
    known = {f.name for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    if path[0] not in known:
        raise UnknownNameError("setting", whole, _near(config, path, whole))
    old = getattr(config, path[0])
    if len(path) == 1:
        return _with(config, path[0], _checked(config, path[0], value, whole))
    entry = _entry_of(type(config), path[0])
    if dataclasses.is_dataclass(old):
        new: Any = _changed(old, path[1:], value, whole)
    elif isinstance(old, Mapping) and entry is not None and len(path) > 2:
        new = {**old, path[1]: _changed(old.get(path[1], entry()), path[2:], value, whole)}
    elif isinstance(old, Mapping) and entry is None and len(path) == 2:
        new = {**old, path[1]: value}
    else:
        raise UsageError(f"{whole}: {path[0]} has no settings of its own")
    return _with(config, path[0], new)


def _entry_of(owner: type, name: str) -> type | None:
    """The configuration that each entry of a mapping is, where they are configurations."""
    kinds = [t for t in get_args(get_type_hints(owner)[name]) if isinstance(t, type) and dataclasses.is_dataclass(t)]
    return kinds[0] if kinds else None


def _with(config: T, name: str, value: Any) -> T:
    """A copy with one field changed, not yet checked against the others: `_made_anew` does that."""
    changed = copy.copy(config)
    object.__setattr__(changed, name, value)
    return changed


def _made_anew(config: T) -> T:
    """The same configuration built from its parts, so that each part's own checks see all of its settings."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    return type(config)(**{k: _part_anew(v) for k, v in fields.items()})


def _part_anew(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {k: _part_anew(v) for k, v in part.items()}
    return _made_anew(part) if dataclasses.is_dataclass(part) else part


def _near(config: Any, path: Sequence[str], whole: str) -> list[str]:
    """Every setting at this depth by its whole dotted name, so that the nearest one can be suggested as it is typed."""
    above = whole.split(".")[: -len(path)]
    return [".".join([*above, name]) for name in _names(config)]


def _names(config: Any) -> Iterator[str]:
    for field in dataclasses.fields(config):
        yield field.name
        value = getattr(config, field.name)
        inside = value if isinstance(value, Mapping) else {"": value}
        for key, part in inside.items():
            if dataclasses.is_dataclass(part):
                yield from (".".join(filter(None, (field.name, key, name))) for name in _names(part))


def _means_none(owner: type, name: str, value: Any) -> bool:
    """Whether `none`, which YAML reads as text, stands for no value: where one may be missing, and is no text itself."""
    kinds = get_args(get_type_hints(owner)[name])
    return isinstance(value, str) and value.lower() == "none" and type(None) in kinds and str not in kinds


def _type_of(owner: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(owner)[name])


def _checked(config: Any, name: str, value: Any, whole: str) -> Any:
    """`value` as the setting's declared type; 1e-4, which YAML reads as text, is a number where one is wanted."""
    hint = str({f.name: f.type for f in dataclasses.fields(config)}[name])
    try:
        if isinstance(value, bool) and "bool" not in hint:
            raise ValueError("a truth value")
        value = None if _means_none(type(config), name, value) else value
        found = _type_of(type(config), name).validate_python(value)
    except (ValidationError, ValueError) as error:
        raise UsageError(f"{whole} does not take this value", expected=hint, got=repr(value)) from error
    numbers = [x for x in (found if isinstance(found, tuple) else (found,)) if isinstance(x, (int, float))]
    if any(x < 0 for x in numbers):
        raise UsageError(f"{whole} does not take this value", expected=f"{hint}, not below 0", got=repr(value))
    return found
