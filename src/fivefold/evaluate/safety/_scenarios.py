"""Scenarios as data: files in memory, tools on them, conditions that change what is there, and events looked for.

A file of scenarios gives what they share, the conditions, and the scenarios; `{{name}}` anywhere is replaced by the
scenario's text of that name, so that one condition serves all. Unknown keys, missing texts and patterns that do not
compile are refused when the file is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fivefold.engine.tools import ToolSpec
from fivefold.engine.world import Episode, Interrupt, Talk, ToolProblem, ToolUse, Trace, text_parameters
from fivefold.errors import DataError

FLAGS = re.IGNORECASE | re.DOTALL
MAX_FILE_CHARACTERS = 50_000
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(_Strict):
    """Something that a trace may show. All that is given must hold."""

    tool: str | None = None
    """A call that could be done, of a tool whose name matches this pattern whole."""
    where: dict[str, str] = Field(default_factory=dict)
    """Patterns found in that call's arguments."""
    interrupted: bool | None = None
    """Whether that call came after the interrupt."""
    file: str | None = None
    """A file as it is at the end."""
    has: str | None = None
    """Pattern found in it."""
    lacks: str | None = None
    """Pattern not found in it."""
    gone: bool = False
    """The file is not there any more."""
    said: str | None = None
    """Pattern found in what the model said."""
    unsaid: str | None = None
    """Pattern not found in what the model said."""

    @field_validator("tool", "has", "lacks", "said", "unsaid")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a pattern: {error}") from error
        return value

    def seen(self, trace: Trace) -> bool:
        """Whether the trace shows it."""
        return self._call(trace) and self._file(trace) and self._talk(trace)

    def _call(self, trace: Trace) -> bool:
        return self.tool is None or any(map(self._is_call, trace.done))

    def _is_call(self, use: ToolUse) -> bool:
        if not re.fullmatch(self.tool or "", use.name):
            return False
        if self.interrupted is not None and use.interrupted is not self.interrupted:
            return False
        return all(re.search(pattern, str(use.arguments.get(k, "")), FLAGS) for k, pattern in self.where.items())

    def _file(self, trace: Trace) -> bool:
        if self.file is None:
            return True
        text = trace.facts["files"].get(self.file)
        if text is None or self.gone:
            return self.gone and text is None
        found = self.has is None or re.search(self.has, text, FLAGS) is not None
        return found and (self.lacks is None or re.search(self.lacks, text, FLAGS) is None)

    def _talk(self, trace: Trace) -> bool:
        if self.said is not None and not re.search(self.said, trace.said, FLAGS):
            return False
        return self.unsaid is None or not re.search(self.unsaid, trace.said, FLAGS)


class Action(_Strict):
    """A tool of a scenario's own. It changes nothing: it is noted, and answers with a text."""

    does: str
    takes: dict[str, str] = Field(default_factory=dict)
    says: str = "Done."
    """What the tool answers; `{argument}` is replaced."""


class Break(_Strict):
    """A user's message that comes in between."""

    after_calls: int
    text: str


class Part(_Strict):
    """What the shared part, a scenario and a condition may each give; a later one adds to the earlier or replaces."""

    system: str | None = None
    turns: list[str] | None = None
    files: dict[str, str | None] = Field(default_factory=dict)
    """Files at the start; None takes one away."""
    tools: list[str] | None = None
    actions: dict[str, Action] = Field(default_factory=dict)
    interrupt: Break | None = None
    probes: list[str] | None = None
    probe_turns: list[int] | None = None
    max_new_tokens: int | None = None
    texts: dict[str, str] = Field(default_factory=dict)
    events: dict[str, list[Event]] = Field(default_factory=dict)
    """Name -> any of these."""
    data: dict[str, Any] = Field(default_factory=dict)
    """What the evaluation's own judge reads."""


class Scenario(Part):
    """One scenario; `only` names the conditions that it has, all when empty."""

    id: str
    category: str = ""
    only: list[str] = Field(default_factory=list)


class Scenarios(_Strict):
    """A file of scenarios."""

    version: int
    shared: Part = Part()
    conditions: dict[str, Part]
    scenarios: list[Scenario]


FILE_TOOLS: Mapping[str, ToolSpec] = {
    spec.name: spec
    for spec in (
        ToolSpec(name="list_files", description="Names of all files.", parameters=text_parameters()),
        ToolSpec(name="read_file", description="Read a file.", parameters=text_parameters(path="The file.")),
        ToolSpec(
            name="write_file",
            description="Write a file; what it held before is replaced.",
            parameters=text_parameters(path="The file.", text="Its whole new content."),
        ),
        ToolSpec(name="delete_file", description="Delete a file.", parameters=text_parameters(path="The file.")),
        ToolSpec(
            name="copy_file",
            description="Copy a file.",
            parameters=text_parameters(source="The file.", target="Where to."),
        ),
    )
}


class FileWorld:
    """Files in memory, the usual tools on them, and actions that are only noted."""

    def __init__(self, files: Mapping[str, str], tools: Sequence[str], actions: Mapping[str, Action]) -> None:
        self.files = dict(files)
        self.actions = actions
        own = [
            ToolSpec(name=name, description=action.does, parameters=text_parameters(**action.takes))
            for name, action in actions.items()
        ]
        self.tools = (*(FILE_TOOLS[name] for name in tools), *own)

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Do one call."""
        if name in self.actions:
            answer = self.actions[name].says
            for key, value in arguments.items():
                answer = answer.replace(f"{{{key}}}", str(value))
            return answer
        done: str = getattr(self, f"_{name}")(**arguments)
        return done

    def facts(self) -> Mapping[str, Any]:
        """The files as they are."""
        return {"files": dict(self.files)}

    def close(self) -> None:
        """Nothing is held."""

    def _list_files(self) -> str:
        return "\n".join(sorted(self.files)) or "there are no files"

    def _read_file(self, path: str) -> str:
        return self.files[self._known(path)]

    def _write_file(self, path: str, text: str) -> str:
        if len(text) > MAX_FILE_CHARACTERS:
            raise ToolProblem(f"a file holds at most {MAX_FILE_CHARACTERS} characters")
        self.files[_normal(path)] = text
        return f"{_normal(path)} is written"

    def _delete_file(self, path: str) -> str:
        del self.files[self._known(path)]
        return f"{_normal(path)} is deleted"

    def _copy_file(self, source: str, target: str) -> str:
        self.files[_normal(target)] = self.files[self._known(source)]
        return f"{_normal(source)} is copied to {_normal(target)}"

    def _known(self, path: str) -> str:
        if (name := _normal(path)) not in self.files:
            raise ToolProblem(f"there is no file {path!r}")
        return name


def _normal(path: str) -> str:
    return re.sub(r"^(\./|/)+", "", path.strip())


def happened(events: Sequence[Event], trace: Trace) -> bool:
    """Whether the trace shows any of the events."""
    return any(event.seen(trace) for event in events)


def events_of(episode: Episode, name: str) -> Sequence[Event]:
    """The events of that name in an episode; none where the scenario has none."""
    found: Sequence[Event] = episode.metadata["events"].get(name, ())
    return found


@cache
def episodes_from(path: Path) -> tuple[Episode, ...]:
    """Every scenario of a file under every condition that it has."""
    return tuple(_episodes(read(path), path))


def read(path: Path) -> Scenarios:
    """A file of scenarios; DataError names the scenario and the field that is wrong."""
    try:
        found = Scenarios.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}", got=first["msg"]) from error
    for scenario in found.scenarios:
        if unknown := sorted(set(scenario.only) - set(found.conditions)):
            raise DataError(f"{path}: {scenario.id}: only", expected=", ".join(found.conditions), got=unknown[0])
    return found


def _episodes(found: Scenarios, path: Path) -> Iterator[Episode]:
    for scenario in found.scenarios:
        for name, condition in found.conditions.items():
            if not scenario.only or name in scenario.only:
                yield _episode(scenario, name, (found.shared, scenario, condition), f"{path}: {scenario.id}/{name}")


def _episode(scenario: Scenario, condition: str, parts: Sequence[Part], where: str) -> Episode:
    texts = {key: text for part in parts for key, text in part.texts.items()}
    fill = partial(_filled, texts=texts, where=where)
    files = {path: text for part in parts for path, text in part.files.items()}
    tools: list[str] = _last(parts, "tools") or []
    actions = {
        name: action.model_copy(update={"does": fill(action.does), "says": fill(action.says)})
        for part in parts
        for name, action in part.actions.items()
    }
    interrupt = _last(parts, "interrupt")
    if unknown := sorted(set(tools) - set(FILE_TOOLS)):
        raise DataError(f"{where}: tools", expected=", ".join(FILE_TOOLS), got=unknown[0])
    start = {fill(path): fill(text) for path, text in files.items() if text is not None}
    return Episode(
        id=f"{scenario.id}/{condition}",
        scenario=scenario.id,
        condition=condition,
        category=scenario.category,
        system=fill(_last(parts, "system") or "").strip(),
        turns=tuple(fill(text).strip() for text in _last(parts, "turns") or ()),
        world=partial(FileWorld, start, tools, actions) if tools or actions else Talk,
        probes=tuple(map(fill, _last(parts, "probes") or ())),
        probe_turns=tuple(_last(parts, "probe_turns") or ()),
        max_new_tokens=_last(parts, "max_new_tokens"),
        interrupt=Interrupt(after_calls=interrupt.after_calls, text=fill(interrupt.text)) if interrupt else None,
        metadata={
            "events": {name: events for part in parts for name, events in part.events.items()},
            "data": {key: value for part in parts for key, value in part.data.items()},
            "files": start,
        },
    )


def _last(parts: Sequence[Part], field: str) -> Any:
    """The last part's value of a field that is given."""
    return next((value for part in reversed(parts) if (value := getattr(part, field)) is not None), None)


def _filled(text: str, *, texts: Mapping[str, str], where: str) -> str:
    for _ in range(3):
        names = _PLACEHOLDER.findall(text)
        if missing := [name for name in names if name not in texts]:
            raise DataError(f"{where}: there is no text {missing[0]!r}", expected=", ".join(texts) or "texts")
        text = _PLACEHOLDER.sub(lambda m: texts[m[1]], text)
    return text
