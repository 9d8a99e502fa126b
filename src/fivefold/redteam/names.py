"""One string for every attack × transform × language: `base64 | role_play | best_of_n @ko`, `caesar(shift=7) | direct`."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, cast

import yaml

from fivefold.errors import UnknownNameError, UsageError
from fivefold.redteam.attacks._text import with_prompt
from fivefold.redteam.helpers import HelpedAttack, Helpers
from fivefold.redteam.protocol import Attack, AttackBudget, Attempt, Judge, own_cases, proof_of
from fivefold.redteam.taxonomy import combined, transform_taxonomy
from fivefold.registry import check_options, named, registry
from fivefold.runtime.protocol import Capability, Context, Model, OnDone, Request
from fivefold.types import Case, Completion, Likelihood, Message, Outcome, Taxonomy

LANGUAGES = ("en", "ko", "ja")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of an addressing string: a name and the options written in its parentheses."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = ", ".join(f"{k}={_shown(v)}" for k, v in self.options.items())
        return f"{self.name}({shown})" if shown else self.name


@dataclass(frozen=True)
class Transformed:
    """An attack whose text goes through transforms, left to right, before the target sees it. The judge sees the plain
    case.

    An attack that rewrites the case's own words gets them transformed (`base64 | best_of_n` varies the Base64). What an
    attacker model writes is transformed on its way to the target instead, because the attacker needs the plain request.
    """

    attack: Attack
    transforms: tuple[str, ...]
    label: str = ""
    """The attack's name as it was written, with its options."""

    @property
    def name(self) -> str:
        """The addressing string without the language."""
        return " | ".join((*self.transforms, self.label or self.attack.name))

    @property
    def needs(self) -> frozenset[Capability]:
        """What the attack needs."""
        return self.attack.needs

    @property
    def taxonomy(self) -> Taxonomy:
        """The attack's taxonomy, its technique naming the transforms."""
        return combined(self.attack.taxonomy, *(transform_taxonomy(p.name) for p in self._parts))

    @property
    def proof(self) -> Literal["judge", "check"]:
        """How the attack's success is told."""
        return proof_of(self.attack)

    def cases(self, language: str) -> tuple[Case, ...]:
        """The behaviours that the attack brings, if any."""
        return own_cases(self.attack, language)

    @property
    def helpers(self) -> Mapping[str, Model]:
        """The models that help the attack."""
        return getattr(self.attack, "helpers", {})

    @property
    def notes(self) -> tuple[str, ...]:
        """What the attack says of itself."""
        return tuple(getattr(self.attack, "notes", ()))

    @property
    def rewrites(self) -> bool:
        """Whether a model changes what is asked."""
        return bool(getattr(self.attack, "rewrites", False))

    @property
    def lacking(self) -> str:
        """Why the attack cannot be made."""
        return str(getattr(self.attack, "lacking", ""))

    def with_helpers(self, wrap: Callable[[Model], Model]) -> Transformed:
        """The same with every helping model wrapped."""
        return replace(self, attack=self.attack.with_helpers(wrap)) if isinstance(self.attack, HelpedAttack) else self

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Run the inner attack on the transformed prompt, or through a target that transforms."""
        if isinstance(self.attack, HelpedAttack) and self.transforms:
            yield from self._on_the_way(case, target, judge, budget, rng)
            return
        prompt = self._through(case.prompt, case, rng)
        disguised = replace(case, messages=with_prompt(case, prompt))

        def plain_judge(asked: Case, completion: Completion) -> Outcome:
            sent = asked.metadata.get("attack_prompt", prompt)
            return judge(replace(case, metadata={**case.metadata, "attack_prompt": sent}), completion)

        for attempt in self.attack.run(disguised, target, plain_judge, budget, rng):
            yield replace(attempt, attack=self.name)

    def _on_the_way(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        own = {m.content for m in case.messages[: _last_user(case)]}
        way = OnTheWay(target, lambda text: self._through(text, case, rng), own)

        def judge_what_was_sent(asked: Case, completion: Completion) -> Outcome:
            plain = str(asked.metadata.get("attack_prompt", ""))
            return judge(replace(asked, metadata={**asked.metadata, "attack_prompt": way.sent(plain)}), completion)

        for attempt in self.attack.run(case, way, judge_what_was_sent, budget, rng):
            yield replace(attempt, attack=self.name, messages=way.conversation(attempt.messages))

    def _through(self, text: str, case: Case, rng: random.Random) -> str:
        for part in self._parts:
            text = registry("transform").module(part.name).transform(text, rng, case.language, **part.options)
        return text

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        return tuple(_part(t, t) for t in self.transforms)


class OnTheWay:
    """`inner`, to which every user turn goes transformed; the same text always becomes the same text."""

    def __init__(self, inner: Model, transform: Callable[[str], str], untouched: Iterable[str]) -> None:
        self.inner, self._transform = inner, transform
        self._sent: dict[str, str] = {text: text for text in untouched}

    @property
    def name(self) -> str:
        """The inner model's name."""
        return self.inner.name

    @property
    def fingerprint(self) -> str:
        """The inner model's fingerprint: what is asked changes, not the model."""
        return self.inner.fingerprint

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The inner model's capabilities."""
        return self.inner.capabilities

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Passed through."""
        return self.inner.log_likelihood(pairs)

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """The inner model's answers to the transformed turns."""
        return self.inner.generate(
            [replace(r, messages=self.conversation(r.messages)) for r in requests], on_done=on_done
        )

    def sent(self, text: str) -> str:
        """What became of a user turn."""
        if text not in self._sent:
            self._sent[text] = self._transform(text)
        return self._sent[text]

    def conversation(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """A conversation as the target saw it."""
        return tuple(replace(m, content=self.sent(m.content)) if m.role == "user" else m for m in messages)


def parse(
    text: str, options: Mapping[str, Any] | None = None, *, helpers: Helpers | None = None
) -> tuple[Attack, str | None]:
    """The attack that an addressing string names, and its language if it has one.

    Parts are separated by `|`; all but the last must be transforms; a last part that is a transform is followed by
    `direct`. A part takes options in parentheses, `many_shot(most=16)`; `options` go to the attack's factory too, and
    are overridden by those in the string. `helpers` go to factories that ask for an attacker or evaluator.
    """
    body, _, language = text.partition("@")
    parts = [_part(p, text) for p in body.split("|")]
    transforms, attacks = registry("transform").names(), registry("attack").names()
    for part in parts[:-1]:
        if part.name not in transforms:
            raise UnknownNameError("transform", part.name, transforms)
    if parts[-1].name not in attacks:
        if parts[-1].name not in transforms:
            raise UnknownNameError("attack", parts[-1].name, [*attacks, *transforms])
        parts.append(Part(name="direct"))
    *chain, last = parts
    for part in chain:
        transform = registry("transform").module(part.name).transform
        check_options(transform, part.name, part.options, taken=("text", "rng", "language"))
    found = _made(last, dict(options or {}), helpers or Helpers())
    if chain or last.options:
        found = Transformed(found, tuple(str(p) for p in chain), str(last))
    return found, (language.strip() or None)


def addresses(languages: Sequence[str] = LANGUAGES) -> Iterator[str]:
    """Every attack by itself and behind each single transform, in every language: the strings that `parse` takes."""
    for attack in registry("attack").names():
        for chain in ("", *(f"{t} | " for t in registry("transform").names())):
            for language in languages:
                yield f"{chain}{attack} @{language}"


def _made(part: Part, options: Mapping[str, Any], helpers: Helpers) -> Attack:
    factory = registry("attack").module(part.name).attack
    wanted = inspect.signature(factory).parameters
    helping = {role: model for role, model in helpers.options().items() if role in wanted}
    check_options(factory, part.name, {**helping, **options, **part.options})
    return cast(Attack, factory(**{**helping, **options, **part.options}))


def _part(text: str, whole: str) -> Part:
    found = named(text)
    if found is None:
        raise UsageError(
            f"not an attack: {whole!r}",
            expected="for example template, base64 | direct, role_play | best_of_n @ko, many_shot(most=16)",
        )
    return Part(name=found[0], options=found[1])


def _shown(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000)).removesuffix("...\n").strip()


def _last_user(case: Case) -> int:
    return max(i for i, m in enumerate(case.messages) if m.role == "user")
