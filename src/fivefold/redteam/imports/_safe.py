"""Reading a report that somebody else wrote: bounded, typed, and with the place of whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.types import Message

MAX_FILE_BYTES = 200_000_000
MAX_LINE_BYTES = 8_000_000
MAX_TEXT = 100_000
MAX_TURNS = 200
MAX_HITS = 50_000
ROLES = ("system", "user", "assistant")


def check_file(path: Path) -> None:
    """DataError unless `path` is a readable file of a size that can be read."""
    if not path.is_file():
        raise DataError(f"no file {path}")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise DataError(f"{path} is too large", expected=f"at most {MAX_FILE_BYTES} bytes", got=size)


def lines_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, object) for each line of a JSONL file."""
    check_file(path)
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{where}: the line is too long", expected=f"at most {MAX_LINE_BYTES} bytes")
            if line.strip():
                yield where, object_of(_parsed(line, where), where)


def document_of(path: Path) -> Any:
    """The value of a JSON file."""
    check_file(path)
    return _parsed(path.read_bytes(), str(path))


def _parsed(raw: bytes, where: str) -> Any:
    def refused(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    try:
        return json.loads(raw.decode("utf-8-sig"), parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON", got=str(error)[:200]) from error


def object_of(value: Any, where: str) -> Mapping[str, Any]:
    """`value` if it is an object."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: not an object", expected="a JSON object", got=type(value).__name__)
    return value


def list_of(value: Any, where: str) -> list[Any]:
    """`value` if it is a list; None is the empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise DataError(f"{where}: not a list", expected="a JSON list", got=type(value).__name__)
    return value


def text_of(value: Any, where: str) -> str:
    """`value` if it is a text of bounded length; None is the empty one. Lone surrogates, which no file can hold, are
    replaced."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: not a text", got=type(value).__name__)
    if len(value) > MAX_TEXT:
        raise DataError(f"{where}: the text is too long", expected=f"at most {MAX_TEXT} characters", got=len(value))
    return value.encode("utf-8", "replace").decode()


def name_of(value: Any, where: str, default: str) -> str:
    """A short text on one line, or `default` when there is none."""
    return " ".join("".join(c if c.isprintable() else " " for c in text_of(value, where)).split())[:120] or default


def turn(role: Any, content: Any, where: str) -> Message:
    """One message with a role that is known."""
    if role not in ROLES:
        raise DataError(f"{where}: unknown role", expected=", ".join(ROLES), got=repr(role)[:60])
    return Message(role=role, content=text_of(content, where))


def conversation(turns: list[Message], where: str) -> tuple[Message, ...]:
    """The turns up to the last of the user, which is what a replay asks; DataError when there is none."""
    if len(turns) > MAX_TURNS:
        raise DataError(f"{where}: too many turns", expected=f"at most {MAX_TURNS}", got=len(turns))
    ends = [i for i, m in enumerate(turns) if m.role == "user" and m.content.strip()]
    if not ends:
        raise DataError(f"{where}: nothing was asked", expected="a turn of the user")
    return tuple(turns[: ends[-1] + 1])


def bounded(count: int, where: str) -> None:
    """DataError when there are more hits than a store should take at once."""
    if count > MAX_HITS:
        raise DataError(f"{where}: too many hits", expected=f"at most {MAX_HITS}")
