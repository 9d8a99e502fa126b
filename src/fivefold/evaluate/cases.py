"""Cases from JSONL files: whatever a user has is a benchmark, and a bad line says where it is and what is wrong.

One object a line: `id` and `prompt` or `messages`, and optionally `target`, `choices`, `behaviour`, `category`,
`language`, `tags`, `metadata`. The fields that the shipped suites add (`surface`, `success`, …) go to the metadata;
any other key is refused, because a misspelt key that is ignored is a case that means something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from fivefold.errors import DataError, nearest
from fivefold.types import Case, Message, Role
from fivefold.types.language import language_of

MAX_FILE_BYTES = 500_000_000
MAX_LINE_BYTES = 2_000_000
MAX_CASES = 1_000_000
MAX_MESSAGES = 2_000
MAX_CHOICES = 26

FIELDS = ("id", "prompt", "messages", "target", "choices", "behaviour", "category", "language", "tags", "metadata")
SUITE_FIELDS = ("surface", "injection", "success", "utility", "note", "style")


def read_cases(path: Path, *, suite: str = "") -> tuple[Case, ...]:
    """All cases of a JSONL file. DataError for a missing, empty or oversized file, a bad line or a repeated id."""
    _check_file(path)
    cases: list[Case] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        case = case_from(_object(line, where), where=where, suite=suite)
        if case.id in seen:
            raise DataError(
                f"{where}: the id {case.id!r} is already used in line {seen[case.id]}", expected="unique ids"
            )
        seen[case.id] = number
        cases.append(case)
        if len(cases) > MAX_CASES:
            raise DataError(f"{path} holds too many cases", expected=f"at most {MAX_CASES}")
    if not cases:
        raise DataError(f"{path} holds no cases", expected="one JSON object a line", got="an empty file")
    return tuple(cases)


def case_from(data: Mapping[str, Any], *, where: str = "case", suite: str = "") -> Case:
    """One case from a JSON object; DataError names the field that is wrong."""
    _check_keys(data, where)
    messages = _messages(data, where)
    choices = _texts(data, "choices", where)
    language = _text(data, "language", where) or language_of(messages[-1].content)
    extra = {key: data[key] for key in SUITE_FIELDS if key in data}
    return Case(
        id=_text(data, "id", where, required=True),
        messages=messages,
        suite=suite,
        behaviour=_text(data, "behaviour", where),
        category=_text(data, "category", where),
        language=language,
        target=_target(data, choices, where),
        choices=choices,
        tags=_texts(data, "tags", where),
        metadata={**_metadata(data, where), **extra},
    )


def _check_file(path: Path) -> None:
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.jsonl")] if path.parent.is_dir() else [])
        raise DataError(f"no file {path}", next_step=f"did you mean {path.parent / near[0]}?" if near else None)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise DataError(f"{path} is too large", expected=f"at most {MAX_FILE_BYTES} bytes", got=size)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that hold something; a line that is too long is refused before it is read whole."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path}:{number}: the line is too long", expected=f"at most {MAX_LINE_BYTES} bytes"
                    )
                if line.strip():
                    yield number, line
    except PermissionError as error:
        raise DataError(f"{path} cannot be read", got=error, next_step="check the file's permissions") from error


def _object(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        data = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        got = line[:80].decode("utf-8", "replace").strip()
        raise DataError(f"{where}: not JSON ({error})", expected="one JSON object", got=got) from error
    if not isinstance(data, dict):
        raise DataError(f"{where}: not an object", expected="one JSON object", got=type(data).__name__)
    return data


def _check_keys(data: Mapping[str, Any], where: str) -> None:
    known = (*FIELDS, *SUITE_FIELDS)
    for key in data:
        if key not in known:
            near = nearest(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "put fields of your own under `metadata`"
            raise DataError(f"{where}: unknown field {key!r}", expected=", ".join(FIELDS), next_step=hint)


def _messages(data: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    if ("prompt" in data) == ("messages" in data):
        got = "both" if "prompt" in data else "neither"
        raise DataError(f"{where}: a case asks with `prompt` or with `messages`", expected="exactly one", got=got)
    if "prompt" in data:
        return (Message(role="user", content=_text(data, "prompt", where, required=True)),)
    raw = data["messages"]
    if not isinstance(raw, list) or not 0 < len(raw) <= MAX_MESSAGES:
        raise DataError(f"{where}: messages", expected=f"a list of 1 to {MAX_MESSAGES} messages", got=repr(raw)[:80])
    return tuple(_message(item, where) for item in raw)


def _message(item: Any, where: str) -> Message:
    roles = get_args(Role)
    if not isinstance(item, dict) or item.get("role") not in roles or not isinstance(item.get("content"), str):
        expected = f'{{"role": one of {", ".join(roles)}, "content": text}}'
        raise DataError(f"{where}: a message is not well formed", expected=expected, got=repr(item)[:120])
    return Message(role=cast(Role, item["role"]), content=item["content"])


def _text(data: Mapping[str, Any], key: str, where: str, *, required: bool = False) -> str:
    value = data.get(key, "")
    if isinstance(value, int) and not isinstance(value, bool) and key == "id":
        value = str(value)
    if not isinstance(value, str) or (required and not value.strip()):
        expected = "a text that is not empty" if required else "a text"
        raise DataError(f"{where}: {key}", expected=expected, got=repr(value)[:80] if key in data else "nothing")
    return value


def _texts(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise DataError(f"{where}: {key}", expected="a list of texts", got=repr(value)[:80])
    if key == "choices" and value and not 2 <= len(value) <= MAX_CHOICES:
        raise DataError(f"{where}: choices", expected=f"2 to {MAX_CHOICES} options", got=len(value))
    return tuple(value)


def _target(data: Mapping[str, Any], choices: tuple[str, ...], where: str) -> str | int | None:
    target = data.get("target")
    if target is None or (isinstance(target, str) and not choices):
        return target
    if isinstance(target, int) and not isinstance(target, bool) and choices:
        if 0 <= target < len(choices):
            return target
        raise DataError(f"{where}: target", expected=f"an index from 0 to {len(choices) - 1}", got=target)
    if isinstance(target, str) and target in choices:
        return choices.index(target)
    expected = "the index of the right option, or its text" if choices else "a text"
    raise DataError(f"{where}: target", expected=expected, got=repr(target)[:80])


def _metadata(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    value = data.get("metadata", {})
    if not isinstance(value, dict):
        raise DataError(f"{where}: metadata", expected="an object", got=type(value).__name__)
    return dict(value)
