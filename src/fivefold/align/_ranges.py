"""What the fields of a configuration may hold. None, where a field may be None, is always allowed; NaN never is."""

from __future__ import annotations

import math
from typing import Any, get_args, get_type_hints

from fivefold.errors import UnknownNameError, UsageError


def counts(config: Any, *names: str, least: int = 1) -> None:
    """Raise UsageError unless these fields are whole numbers of at least `least`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            _refuse(name, f"a whole number, at least {least}", value)


def numbers(
    config: Any, *names: str, least: float = 0.0, most: float = math.inf, above: bool = False, below: bool = False
) -> None:
    """Raise UsageError unless these fields lie from `least` to `most`; `above` and `below` leave out the ends themselves.
    Only an end may be infinite."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (_is_number(value) and _within(value, least, most, above, below)):
            _refuse(name, _range(least, most, above, below), value)


def words(config: Any, *names: str) -> None:
    """Raise UnknownNameError, with the nearest known word, unless these fields hold one of their type's words."""
    hints = get_type_hints(type(config))
    for name in names:
        if getattr(config, name) not in get_args(hints[name]):
            raise UnknownNameError(name, str(getattr(config, name)), get_args(hints[name]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _within(value: float, least: float, most: float, above: bool, below: bool) -> bool:
    return (value > least if above else value >= least) and (value < most if below else value <= most)


def _range(least: float, most: float, above: bool, below: bool) -> str:
    low = f"above {least:g}" if above else f"at least {least:g}"
    if math.isinf(most):
        return f"a number {low}" + (", not infinite" if below else "")
    return f"a number {low} and {'below' if below else 'at most'} {most:g}"


def _refuse(name: str, expected: str, value: Any) -> None:
    raise UsageError(f"{name} has a value that makes no sense", expected=expected, got=repr(value))
