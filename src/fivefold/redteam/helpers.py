"""Models that help with an attack: the one that writes its prompts, and the one that reads what was written.

An attack that is helped declares the field `attacker` (and, where it asks one, `evaluator`); any fivefold model will do,
also a scripted one. Its factory takes them as `attacker=` and `evaluator=`, a model or its name. Without an attacker it
either falls back to fixed templates, which `notes` says aloud, or cannot be made, which `lacking` says before work starts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

from fivefold.errors import UsageError
from fivefold.redteam.protocol import Attack
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Capability, Model, Request
from fivefold.types import Completion, Message

TEMPLATES = "templates"
ROLES = ("attacker", "evaluator")
T = TypeVar("T", bound="Helped")
_STRING = r'"(?:[^"\\]|\\.)*"'
_FIELDS = re.compile(rf"\{{\s*{_STRING}\s*:\s*{_STRING}(?:\s*,\s*{_STRING}\s*:\s*{_STRING})*", re.DOTALL)
"""What a JSON object of strings begins with."""


@dataclass(frozen=True, kw_only=True)
class Helpers:
    """The models that help every attack of a campaign that asks for help."""

    attacker: Model | None = None
    """Writes prompts: rephrases, translates, leads a conversation."""
    evaluator: Model | None = None
    """Reads prompts: is this one still about the behaviour? The attacker does it where there is none."""

    def options(self) -> dict[str, Model]:
        """Those that are there, as options of a factory."""
        return {f.name: m for f in fields(self) if (m := getattr(self, f.name)) is not None}


@runtime_checkable
class HelpedAttack(Attack, Protocol):
    """What a helped attack offers beside the attack's protocol."""

    @property
    def helpers(self) -> Mapping[str, Model]:
        """The helping models that were given, by role."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its results must know: above all, that templates stood in for an attacker."""
        ...

    @property
    def lacking(self) -> str:
        """Why the attack cannot be made as it is, or an empty string."""
        ...

    def with_helpers(self, wrap: Callable[[Model], Model]) -> Attack:
        """The same attack with every helping model wrapped (so that attacks on many behaviours share batches)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Helped:
    """Base of attacks that an attacker model writes for."""

    stand_ins: ClassVar[int | None] = None
    """How many fixed prompts stand in for an attacker; None: as many as are asked for."""

    attacker: Model | None = None
    evaluator: Model | None = None

    @property
    def most_queries(self) -> int | None:
        """The most that a behaviour can take, where that is less than the budget."""
        return self.stand_ins if self.attacker is None else None

    @property
    def helpers(self) -> dict[str, Model]:
        """The helping models that were given, by role."""
        return {role: m for role in ROLES if (m := getattr(self, role)) is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """Says that templates stand in where there is no attacker."""
        if self.attacker is not None:
            return ()
        name = cast(Any, self).name
        return (
            f"{name}: no attacker model was given, so fixed templates were sent instead of what the paper's attacker "
            "would write; its success rate is a lower bound (give --attacker MODEL)",
        )

    @property
    def lacking(self) -> str:
        """Nothing: templates stand in."""
        return ""

    @property
    def wrote(self) -> str:
        """Who wrote the prompts, for an attempt's metadata."""
        return TEMPLATES if self.attacker is None else self.attacker.name

    @property
    def rewrites(self) -> bool:
        """Whether a model changes what is asked, so that an answer to its words need not answer the request."""
        return self.attacker is not None

    def with_helpers(self: T, wrap: Callable[[Model], Model]) -> T:
        """The same attack with every helping model wrapped."""
        return replace(self, **{role: wrap(m) for role, m in self.helpers.items()})


def as_model(model: Model | str | None) -> Model | None:
    """A helping model from what a factory was given; a name is loaded."""
    return load(model) if isinstance(model, str) else model


def require_helpers(attack: Attack) -> None:
    """Raise UsageError when `attack` needs a helping model that it was not given."""
    if lacking := getattr(attack, "lacking", ""):
        raise UsageError(
            f"attack {attack.name} cannot be made: {lacking}",
            next_step="give --attacker MODEL (in a plan: attacker: MODEL)",
        )


def ask(
    model: Model,
    conversations: Sequence[tuple[Message, ...]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    prefill: str | Sequence[str] = "",
    stop: Sequence[str] = (),
) -> list[Completion]:
    """One batch of requests to a helping model. The answers include the prefill (one for all, or one each), where the model
    allows one."""
    openings = [prefill] * len(conversations) if isinstance(prefill, str) else list(prefill)
    if Capability.PREFILL not in model.capabilities:
        openings = [""] * len(conversations)
    requests = [
        Request(messages=c, max_new_tokens=max_new_tokens, temperature=temperature, seed=s, prefill=o, stop=tuple(stop))
        for c, s, o in zip(conversations, seeds, openings, strict=True)
    ]
    answers = zip(openings, model.generate(requests), strict=True)
    return [a if _whole(a.text) else replace(a, text=opening + a.text) for opening, a in answers]


def _whole(text: str) -> bool:
    return text.lstrip().startswith(("{", "```"))


def read_fields(text: str, *keys: str) -> dict[str, str] | None:
    """The string fields `keys` of the first JSON object in `text`; None unless every one is there and not blank."""
    found = read_object(text, *keys)
    return None if found is None else {k: found[k] for k in keys}


def read_object(text: str, *keys: str) -> dict[str, str] | None:
    """All string fields of the first JSON object in `text`; None unless those of `keys` are there and not blank.

    Models write newlines inside strings, stop before the last brace, and go on with what is no JSON after the fields: all of
    that is forgiven.
    """
    start = text.find("{")
    if start < 0:
        return None
    body = text[start:]
    for candidate in (body, body + '"}', body + "}", _fields_alone(body), _fields_alone(body + '"')):
        try:
            found, _ = json.JSONDecoder(strict=False).raw_decode(candidate)
        except ValueError:
            continue
        values = {k: v.strip() for k, v in found.items() if isinstance(v, str)}
        if all(values.get(k) for k in keys):
            return values
    return None


def _fields_alone(body: str) -> str:
    """The string fields that an object opens with, as an object."""
    fields = _FIELDS.match(body)
    return fields[0] + "}" if fields else ""


def read_line(text: str) -> str:
    """A rewritten prompt from a free reply: no quotes, label or markdown around it; empty when nothing is left."""
    body = re.sub(r"^\s*(?:[A-Za-z ]{3,24}:\s*)?", "", text.strip(), count=1)
    return body.strip().strip("\"'`“”「」").strip()
