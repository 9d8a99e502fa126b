"""Template jailbreaks: the behaviour inside a fixed wrapper (role play, prefix injection, refusal suppression, …).

Defensive use: finds wrappers that a model's training does not cover. Source: Wei et al. 2023, "Jailbroken" (arXiv
2307.02483), and the families named in templates.yaml. Deviation: the wrappers are this project's own, one or two
sentences.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml

from fivefold.errors import UnknownNameError
from fivefold.redteam.attacks._text import request, send, succeeded
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case


@cache
def wrappers() -> Mapping[str, Mapping[str, str]]:
    """Template name → language → text with `{request}`."""
    loaded: Mapping[str, Mapping[str, str]] = yaml.safe_load(
        Path(__file__).with_name("templates.yaml").read_text(encoding="utf-8")
    )
    return loaded


def wrap(template: str, prompt: str, language: str) -> str:
    """`prompt` inside a template, in its language where the template has it, else in English."""
    texts = wrappers()[template]
    return texts.get(language, texts["en"]).replace("{request}", prompt)


class Template:
    """Tries each wrapper in turn, one query each, until one succeeds or the budget is spent."""

    name = "template"
    needs = frozenset({Capability.GENERATE})
    taxonomy = attack_taxonomy("template")

    def __init__(self, templates: Sequence[str] = ()) -> None:
        self.templates = tuple(templates) or tuple(wrappers())
        for name in self.templates:
            if name not in wrappers():
                raise UnknownNameError("template", name, wrappers())

    @property
    def most_queries(self) -> int:
        """One for each wrapper."""
        return len(self.templates)

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt per wrapper."""
        for template in self.templates[: budget.queries]:
            asked = request(case, wrap(template, case.prompt, case.language), budget)
            (attempt,) = send(case, self.name, target, judge, budget, [asked], [{"template": template}])
            yield attempt
            if succeeded(attempt):
                return


def attack(templates: Sequence[str] = ()) -> Template:
    """All wrappers, or those named."""
    return Template(templates)
