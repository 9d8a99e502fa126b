"""Tool calls over plain text: definitions rendered into the system prompt, calls parsed out of the answer.

For models whose template has no tool format of its own. The format is one JSON object a call,
`{"tool": "name", "arguments": {...}}`; `name` for `tool` and a fenced block around the object are understood too. Text
around the calls stays the answer's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fivefold.types import Message

_INTRO = """You can use tools. To call a tool, answer with a JSON object on a line of its own:
{"tool": "<name>", "arguments": {<arguments>}}
You will get the result in the next message. When you need no tool, answer in plain text.
Tools:"""


@dataclass(frozen=True, kw_only=True)
class ToolSpec:
    """A tool as the model is told of it; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One parsed call. `error` says what is wrong with it, for the model to read."""

    name: str
    arguments: Mapping[str, Any]
    error: str | None = None


def instructions(tools: Sequence[ToolSpec], *, must: str | None = None) -> str:
    """The text that tells a model of its tools; `must` is a tool it has to call, or "any"."""
    lines = [_INTRO]
    for tool in tools:
        lines.append(json.dumps({"name": tool.name, "description": tool.description, "parameters": tool.parameters}))
    if must:
        lines.append("Call a tool now." if must == "any" else f"Call the tool {must} now.")
    return "\n".join(lines)


def with_instructions(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """The conversation with `text` at the end of its system prompt."""
    if messages and messages[0].role == "system":
        first = Message(role="system", content=f"{messages[0].content}\n\n{text}")
        return (first, *messages[1:])
    return (Message(role="system", content=text), *messages)


def rendered_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as the model writes it."""
    return json.dumps({"tool": name, "arguments": arguments}, ensure_ascii=False)


def parse(text: str, known: Sequence[str]) -> tuple[str, list[Call]]:
    """The answer without its calls, and the calls. A JSON object that names no known tool is text."""
    calls: list[Call] = []
    kept: list[str] = []
    at = 0
    for start, end, value in _objects(text):
        call = _call(value, known)
        if call is None:
            continue
        calls.append(call)
        kept.append(text[at:start])
        at = end
    kept.append(text[at:])
    rest = re.sub(r"```(?:json|tool_code)?\s*```", "", "".join(kept)) if calls else text
    return rest.strip(), calls


def _objects(text: str) -> list[tuple[int, int, Any]]:
    decoder = json.JSONDecoder()
    found, at = [], text.find("{")
    while at != -1:
        try:
            value, end = decoder.raw_decode(text, at)
            found.append((at, end, value))
        except (json.JSONDecodeError, RecursionError):
            end = at + 1
        at = text.find("{", end)
    return found


def _call(value: Any, known: Sequence[str]) -> Call | None:
    if not isinstance(value, dict):
        return None
    name = value.get("tool", value.get("name"))
    if not isinstance(name, str) or name not in known:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, dict):
        return Call(name=name, arguments={}, error=f"arguments of {name} are not a JSON object")
    return Call(name=name, arguments=arguments)
