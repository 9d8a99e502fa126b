"""Episodes: what a model is put into, and what became of it. No Inspect here, so that data and judges stay plain.

An episode is one scenario under one condition: a system prompt, the user's turns, a world with tools, and questions
that are asked aside. Playing it leaves a trace, which is all that a judge sees; the trace stands in the log, so that
any outcome can be judged again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from fivefold.engine.tools import ToolSpec
from fivefold.types import Message, Outcome


class ToolProblem(Exception):
    """A tool call that cannot be done. The model reads the message and may go on."""


class World(Protocol):
    """What the tools of one episode act on. Made when the episode starts, closed when it ends."""

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """The tools that the model is told of; empty for a plain conversation."""
        ...

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Do one call, whose required arguments are there. Raises ToolProblem for what the model did wrong."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """The state that a judge needs, as plain values: asked once, when the episode has ended."""
        ...

    def close(self) -> None:
        """Let go of what the world holds."""
        ...


class Talk:
    """A world without tools: a plain conversation."""

    tools: tuple[ToolSpec, ...] = ()

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """There is nothing to call."""
        raise ToolProblem(f"there is no tool {name}")

    def facts(self) -> Mapping[str, Any]:
        """Nothing changes in a conversation."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, kw_only=True)
class Interrupt:
    """A user's message that comes in between, after the model's n-th tool call."""

    after_calls: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One scenario under one condition. `{turn}` in a probe is the number of the user's turn it follows."""

    id: str
    scenario: str
    """What its conditions share; the cluster that intervals count."""
    condition: str
    turns: tuple[str, ...]
    """What the user says, one turn after the other, whatever the model answers."""
    world: Callable[[], World] = Talk
    category: str = ""
    system: str = ""
    probes: tuple[str, ...] = ()
    """Questions asked aside on a copy of the conversation, which never sees them."""
    probe_turns: tuple[int, ...] = ()
    """After which turns the probes are asked; 0 is before the first."""
    interrupt: Interrupt | None = None
    max_new_tokens: int | None = None
    """Tokens of one answer, where fewer do than in the rest of the run."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """One call that the model made. `error` is what the model was told when it could not be done."""

    name: str
    arguments: Mapping[str, Any]
    result: str = ""
    error: str = ""
    answer: int = 0
    """Which of the model's answers made it, from 0."""
    interrupted: bool = False
    """Made after the interrupt had been said."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One question asked aside, and the answer."""

    turn: int
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What happened in an episode."""

    messages: tuple[Message, ...]
    uses: tuple[ToolUse, ...] = ()
    probes: tuple[Probe, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    out_of_steps: bool = False
    """The model was still calling tools when its steps were spent."""

    @property
    def answers(self) -> tuple[str, ...]:
        """The model's texts, without its calls."""
        return tuple(m.content for m in self.messages if m.role == "assistant")

    @property
    def said(self) -> str:
        """All that the model said."""
        return "\n".join(self.answers)

    @property
    def done(self) -> tuple[ToolUse, ...]:
        """The calls that could be done."""
        return tuple(use for use in self.uses if not use.error)

    @property
    def interrupted(self) -> bool:
        """Whether the interrupt was said."""
        return bool(self.facts.get("interrupted"))


Judge: TypeAlias = Callable[[Episode, Trace], Mapping[str, Outcome]]
"""What an episode came to, by metric. A metric that an episode says nothing of is left out."""


def trace_from_json(data: Mapping[str, Any]) -> Trace:
    """Inverse of `plain(trace)`."""
    return Trace(
        messages=tuple(Message(**m) for m in data["messages"]),
        uses=tuple(ToolUse(**u) for u in data["uses"]),
        probes=tuple(Probe(**p) for p in data["probes"]),
        facts=data["facts"],
        out_of_steps=data["out_of_steps"],
    )


def argument_problem(spec: ToolSpec, arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments of a call: one that is missing, unknown, or not a text where one is expected."""
    known: Mapping[str, Any] = spec.parameters.get("properties", {})
    missing = [name for name in spec.parameters.get("required", ()) if name not in arguments]
    unknown = [name for name in arguments if name not in known]
    if missing:
        return f"{spec.name} needs the argument {missing[0]!r}"
    if unknown:
        return f"{spec.name} has no argument {unknown[0]!r}; it has: {', '.join(known) or 'none'}"
    wrong = [n for n, v in arguments.items() if known[n].get("type") == "string" and not isinstance(v, str)]
    return f"the argument {wrong[0]!r} of {spec.name} must be a text" if wrong else None


def text_parameters(**described: str) -> dict[str, Any]:
    """A JSON schema of required text arguments."""
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    return {"type": "object", "properties": properties, "required": list(described)}
