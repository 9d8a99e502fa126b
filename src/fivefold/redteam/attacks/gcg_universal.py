"""Universal GCG: one suffix optimised on several behaviours, then tested on behaviours that it has not seen.

Defensive use: measures whether one string opens a model for everything, and, with `source`, whether a string found on
an open model opens a closed one. Source: Zou et al. 2023 (arXiv 2307.15043), algorithm 2 and section 3.2, transfer. Deviations
as in `gcg`; one target text for all behaviours; with several `sources` in the paper, here one.

The suffix is searched once for each (model, language) and kept, so its `budget.steps` are spent on the first behaviour
only; each behaviour then costs the queries of its tests, best suffix first.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from fivefold.errors import UnknownNameError, UsageError
from fivefold.redteam._gcg_penalty import DirectionPenalty
from fivefold.redteam.attacks._text import request, send, succeeded
from fivefold.redteam.attacks.gcg import GCGConfig, open_model, other_model, search_on, tokens_a_step
from fivefold.redteam.cost import asked, queries
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.runtime.protocol import Capability, Cost, Model
from fivefold.types import Case, Errored, Taxonomy, user_case

KEPT = 8
Suffixes = tuple[tuple[float, int, str], ...]
"""(loss, step, text), best first."""


class UniversalGCG:
    """Searches on `behaviours`; without any, on the first case that it is given, whose suffix the others then get."""

    name = "gcg_universal"
    taxonomy = Taxonomy(
        surface="user prompt",
        technique="universal gradient-based suffix",
        owasp=("LLM01:2025",),
        atlas=("AML.T0054", "AML.T0043.000"),
    )

    def __init__(self, config: GCGConfig, behaviours: Sequence[str] = ()) -> None:
        self.config, self.behaviours = config, tuple(behaviours)
        self.found: dict[tuple[str, str, int], tuple[Suffixes, int]] = {}

    @property
    def needs(self) -> frozenset[Capability]:
        """Gradients of the target, unless another model is searched on."""
        open_needed = frozenset[Capability]() if self.config.source else frozenset({Capability.GRADIENTS})
        return open_needed | {Capability.GENERATE}

    def cost(self, budget: AttackBudget, *, prompt_tokens: int, behaviours: int) -> Cost:
        """One search for all behaviours, and at most so many tests of each as suffixes are kept."""
        a_step = max(1, len(self.behaviours)) * tokens_a_step(self.config, prompt_tokens)
        tests = asked(queries(budget, KEPT) * behaviours, budget, prompt_tokens + self.config.length)
        return tests + Cost(prompt_tokens=budget.steps * a_step)

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt a kept suffix, best first, until one succeeds or the queries are spent."""
        model = open_model(target if self.config.source is None else other_model(self.config.source))
        key = (model.fingerprint, case.language, budget.steps)
        searched = 0
        if key not in self.found:
            self.found[key] = self._search(model, case, budget, rng)
            searched = self.found[key][1]
        suffixes, _ = self.found[key]
        if not suffixes:
            yield self._broken(case)
        for loss, step, text in suffixes[: budget.queries]:
            asked = request(case, case.prompt + text, budget)
            notes = {"suffix": text, "step": step, "loss": loss, "searched_on": model.name, "search_tokens": searched}
            (attempt,) = send(case, self.name, target, judge, budget, [asked], [notes])
            yield replace(attempt, loss=loss, tokens=attempt.tokens + searched)
            searched = 0
            if succeeded(attempt):
                return

    def _search(self, model: Any, case: Case, budget: AttackBudget, rng: random.Random) -> tuple[Suffixes, int]:
        """The best suffixes of one search, and the tokens that it took. Only suffixes found with every behaviour active
        are compared with each other, where there are such."""
        cases = [user_case(f"train/{i}", b, language=case.language) for i, b in enumerate(self.behaviours)] or [case]
        search = search_on(self.config, model, cases, rng)
        kept: dict[int, dict[str, tuple[float, int]]] = {}
        until = None if budget.seconds is None else time.monotonic() + budget.seconds
        for found in search.run(budget.steps):
            if found.finite:
                active = getattr(search.objective, "active", 1)
                kept.setdefault(active, {})[search.prompt.text(found.suffix)] = (found.loss, found.step)
            if until is not None and time.monotonic() >= until:
                break
        best = kept[max(kept)] if kept else {}
        rows = sorted((loss, step, text) for text, (loss, step) in best.items())
        return tuple(rows[:KEPT]), search.tokens

    def _broken(self, case: Case) -> Attempt:
        return Attempt(
            case_id=case.id,
            attack=self.name,
            messages=case.messages,
            completion=None,
            outcome=Errored(error="gcg_universal: the loss was not finite at any step"),
            queries=0,
        )


def attack(
    behaviours: Sequence[str] = (), penalties: Sequence[DirectionPenalty | Mapping[str, Any]] = (), **options: Any
) -> UniversalGCG:
    """Universal GCG on these requests, with the options of `GCGConfig`."""
    known = [f.name for f in fields(GCGConfig)]
    for key in options:
        if key not in known:
            raise UnknownNameError("option of gcg_universal", key, known)
    if isinstance(behaviours, str):
        raise UsageError("gcg_universal: behaviours is a list of requests", got="one text")
    return UniversalGCG(GCGConfig(penalties=tuple(DirectionPenalty.of(p) for p in penalties), **options), behaviours)
