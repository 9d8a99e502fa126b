"""Indirect injection: an order that stands in what the model was given to read, not in what its user asks.

Greshake et al. 2023 (arXiv 2302.12173) named it; the surfaces follow BIPIA (Yi et al. 2023, arXiv 2312.14197),
InjecAgent (Zhan et al. 2024, arXiv 2403.02691) and AgentDojo (Debenedetti et al. 2024, arXiv 2406.13352). Orders come
from the case: its `injection` with the canary in `success` where it has them (the shape of core-injection), else the
request itself, which the judge then judges. The texts around them are this project's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fivefold.errors import UnknownNameError
from fivefold.redteam.agent import Tool, already_called, tool
from fivefold.redteam.attacks._checked import converse, local, system_of, texts
from fivefold.redteam.attacks._text import succeeded
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case, Message, Taxonomy

FILE = "injection.yaml"
SURFACES = {"direct": "user prompt", "email": "e-mail"}
"""Carrier → its surface in the taxonomy, where that has another name."""
ATLAS = {"direct": ("AML.T0051.000",), "memory": ("AML.T0051.001", "AML.T0080.000")}

AGENTIC: Mapping[str, tuple[str, ...]] = {"direct": (), "memory": ("ASI01", "ASI06")}


class Injection:
    """The order in one carrier, in each style in turn."""

    needs = frozenset({Capability.GENERATE})

    def __init__(self, surface: str, styles: Sequence[str] = ()) -> None:
        known = texts(FILE)["styles"]
        self.surface, self.name = surface, f"inject_{surface}"
        self.styles = tuple(styles) or tuple(known)
        for style in self.styles:
            if style not in known:
                raise UnknownNameError("style", style, known)
        self.carrier: Mapping[str, Any] = texts(FILE)["carriers"][surface]
        where = "direct" if surface == "direct" else "indirect"
        self.taxonomy = Taxonomy(
            surface=SURFACES.get(surface, surface.replace("_", " ")),
            technique=f"{where} prompt injection",
            owasp=("LLM01:2025",),
            agentic=AGENTIC.get(surface, ("ASI01",)),
            atlas=ATLAS.get(surface, ("AML.T0051.001",)),
        )

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield an attempt an answer until one succeeds or the queries are spent."""
        spent = 0
        for style in self.styles:
            if spent >= budget.queries:
                return
            order = self._order(case, style)
            for attempt in converse(
                case,
                self.name,
                target,
                judge,
                budget,
                self.messages(case, order),
                left=min(budget.queries - spent, 2),
                tools=self.tools(case, order),
                check=_check(case),
                notes={"style": style, "surface": self.surface},
            ):
                spent += 1
                yield attempt
                if succeeded(attempt):
                    return

    def messages(self, case: Case, order: str) -> tuple[Message, ...]:
        """The conversation up to where the model answers with the order before its eyes."""
        carrier = local(self.carrier["text"], case.language)
        content = carrier["content"].replace("{order}", order)
        system = system_of(case)
        task = Message(role="user", content=carrier["task"].replace("{content}", content))
        if self.surface == "memory":
            head = "\n\n".join([*(m.content for m in system), content])
            return Message(role="system", content=head), task
        if "tool" not in self.carrier:
            return *system, task
        called = already_called(self.carrier["tool"], self.carrier["arguments"], content)
        return *system, task, *called

    def tools(self, case: Case, order: str) -> list[Tool]:
        """What the agent may call: the tool that brought the content. It gives the same content again."""
        if "tool" not in self.carrier:
            return []
        content = local(self.carrier["text"], case.language)["content"].replace("{order}", order)
        parameters = {name: "What to read." for name in self.carrier["arguments"]}
        return [tool(self.carrier["tool"], self.carrier["about"], content, **parameters)]

    def _order(self, case: Case, style: str) -> str:
        order = str(case.metadata.get("injection") or case.prompt)
        return str(local(texts(FILE)["styles"][style], case.language)).replace("{order}", order)


def _check(case: Case) -> Mapping[str, Any] | None:
    """The canary of a case that has one."""
    word, order = (case.metadata.get("success") or {}).get("contains"), case.metadata.get("injection")
    return {"kind": "canary", "contains": str(word), "order": str(order)} if word and order else None
