"""A small agent whose tools do nothing: they answer from memory and record what they were asked. For system attacks.

No tool reads a file, opens a connection or runs a command, so whatever an attacked model calls has no effect outside
this process. Calls are written as text (`engine.tools`); results come back as a turn of the user, because the chat
templates of small models have no tool role (as in the engine's provider).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from fivefold.engine.tools import Call, ToolSpec, instructions, parse, rendered_call, with_instructions
from fivefold.runtime.protocol import Model, Request
from fivefold.types import Completion, Message

Answer: TypeAlias = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool as the model is told of it, and what it answers. `answer` must be pure."""

    spec: ToolSpec
    answer: Answer


@dataclass(frozen=True, kw_only=True)
class Step:
    """One answer of the agent's model: the conversation up to it, the answer, and the calls in it."""

    messages: tuple[Message, ...]
    completion: Completion
    calls: tuple[Call, ...]


def tool(name: str, description: str, answer: Answer | str, **parameters: str) -> Tool:
    """A tool with text parameters (name → description); a text as `answer` is what every call gets."""
    properties = {p: {"type": "string", "description": d} for p, d in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    reply: Answer = (lambda arguments: answer) if isinstance(answer, str) else answer
    return Tool(spec=ToolSpec(name=name, description=description, parameters=schema), answer=reply)


def run_agent(
    target: Model, messages: Sequence[Message], tools: Sequence[Tool], *, steps: int, max_new_tokens: int
) -> Iterator[Step]:
    """Steps until the model calls nothing, fails, or `steps` answers were given."""
    known = {t.spec.name: t for t in tools}
    talk = offered(messages, tools)
    for _ in range(steps):
        (completion,) = target.generate([Request(messages=talk, max_new_tokens=max_new_tokens)])
        calls = () if completion.error else tuple(parse(completion.text, list(known))[1])
        yield Step(messages=talk, completion=completion, calls=calls)
        if not calls:
            return
        results = [Message(role="user", content=_result(known[c.name], c)) for c in calls]
        talk = (*talk, Message(role="assistant", content=completion.text), *_merged(results))


def offered(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """The conversation with the tools described in its system prompt."""
    return with_instructions(messages, instructions([t.spec for t in tools])) if tools else tuple(messages)


def already_called(name: str, arguments: Mapping[str, Any], result: str) -> tuple[Message, Message]:
    """A call that the agent has made and its result, so that a model which would not have called sees the result too
    (as in InjecAgent, Zhan et al. 2024, arXiv 2403.02691)."""
    called = Message(role="assistant", content=rendered_call(name, arguments))
    return called, Message(role="user", content=f"Result of {name}:\n{result}")


def memory_of(files: Mapping[str, str]) -> list[Tool]:
    """Tools of a coding agent over files in memory; a command is recorded and answered, never run."""
    kept = dict(files)

    def write(arguments: Mapping[str, Any]) -> str:
        kept[str(arguments.get("path", ""))] = str(arguments.get("content", ""))
        return "written"

    return [
        tool("list_files", "List the files of the repository.", lambda a: "\n".join(sorted(kept))),
        tool("read_file", "Read a file.", lambda a: kept.get(str(a.get("path")), "no such file"), path="Its path."),
        tool("write_file", "Write a file.", write, path="Its path.", content="The new text."),
        tool("run_command", "Run a shell command.", "exit code 0", command="The command."),
    ]


def _result(called: Tool, call: Call) -> str:
    try:
        text = call.error or called.answer(call.arguments)
    except (KeyError, TypeError, ValueError) as error:
        text = f"error: {json.dumps(str(error))}"
    return f"Result of {call.name}:\n{text}"


def _merged(results: Sequence[Message]) -> tuple[Message, ...]:
    """One turn for all results: templates expect the roles to alternate."""
    return (Message(role="user", content="\n\n".join(m.content for m in results)),)
