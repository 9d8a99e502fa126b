"""One string for every attack × transform × language: `base64 | role_play | best_of_n @ko`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from fivefold.errors import UnknownNameError, UsageError
from fivefold.redteam.attacks._text import with_prompt
from fivefold.redteam.protocol import Attack, AttackBudget, Attempt, Judge
from fivefold.registry import registry
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case, Taxonomy


@dataclass(frozen=True)
class Transformed:
    """An attack on a case whose prompt has gone through transforms, left to right. The judge sees the plain case."""

    attack: Attack
    transforms: tuple[str, ...]

    @property
    def name(self) -> str:
        """The addressing string without the language."""
        return " | ".join((*self.transforms, self.attack.name))

    @property
    def needs(self) -> frozenset[Capability]:
        """What the attack needs."""
        return self.attack.needs

    @property
    def taxonomy(self) -> Taxonomy:
        """The attack's taxonomy, its technique naming the transforms."""
        return replace(
            self.attack.taxonomy, technique=f"{self.attack.taxonomy.technique} via {', '.join(self.transforms)}"
        )

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Run the inner attack on the transformed prompt."""
        prompt = case.prompt
        for name in self.transforms:
            prompt = registry("transform").module(name).transform(prompt, rng, case.language)
        disguised = replace(case, messages=with_prompt(case, prompt))

        def plain_judge(asked: Case, completion: Any) -> Any:
            sent = asked.metadata.get("attack_prompt", prompt)
            return judge(replace(case, metadata={**case.metadata, "attack_prompt": sent}), completion)

        for attempt in self.attack.run(disguised, target, plain_judge, budget, rng):
            yield replace(attempt, attack=self.name)


def parse(text: str, options: Mapping[str, Any] | None = None) -> tuple[Attack, str | None]:
    """The attack that an addressing string names, and its language if it has one.

    Parts are separated by `|`; all but the last must be transforms; a last part that is a transform is followed by
    `direct`. `options` go to the attack's factory.
    """
    body, _, language = text.partition("@")
    parts = [p.strip().replace("-", "_") for p in body.split("|")]
    transforms, attacks = registry("transform").names(), registry("attack").names()
    if not all(parts):
        raise UsageError(
            f"not an attack: {text!r}", expected="for example template, base64 | direct, role_play | best_of_n @ko"
        )
    for part in parts[:-1]:
        if part not in transforms:
            raise UnknownNameError("transform", part, transforms)
    last = parts[-1]
    if last not in attacks:
        if last not in transforms:
            raise UnknownNameError("attack", last, [*attacks, *transforms])
        parts.append("direct")
        last = "direct"
    attack = cast(Attack, registry("attack").module(last).attack(**dict(options or {})))
    chain = tuple(parts[:-1])
    disguised: Attack = Transformed(attack, chain) if chain else attack
    return disguised, (language.strip() or None)
