"""Refusal ablation: the direction in which harmful requests differ from harmless ones is removed from every layer.

Defensive use: measures how little an attacker who holds the weights needs to switch refusal off, without training; a
model that must stay safe after release has to withstand it. Source: Arditi et al. 2024, "Refusal in Language Models
Is Mediated by a Single Direction" (arXiv 2406.11717): difference of means at the prompt's last token, directional
ablation.

Deviations: the direction is read at the last position only and taken from the layer whose ablation the judge finds
most complying, a query a layer, in the given order; ablation acts on the residual stream after every decoder layer,
not on each sublayer's output; the prompts for the means are this project's own, or the caller's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from fivefold.errors import CapabilityError, UsageError
from fivefold.redteam.attacks._checked import local, texts
from fivefold.redteam.attacks._text import request, send, succeeded
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.runtime.protocol import Capability, Intervention, Model, WhiteBox, require
from fivefold.types import Case, Message, Taxonomy

FILE = "contrast.yaml"
DEPTHS = (0.6, 0.5, 0.7, 0.4, 0.8)
"""Where a direction is looked for, as shares of the depth: the paper finds the best ones past the middle."""


class RefusalAblation:
    """One query a candidate layer, on the model with that layer's direction ablated."""

    name = "refusal_ablation"
    needs = frozenset({Capability.GENERATE, Capability.ACTIVATIONS, Capability.INTERVENTIONS})
    taxonomy = Taxonomy(
        surface="weights", technique="refusal direction ablation", owasp=("LLM01:2025",), atlas=("AML.T0018",)
    )

    def __init__(self, harmful: Sequence[str] = (), harmless: Sequence[str] = (), layers: Sequence[int] = ()) -> None:
        if bool(harmful) != bool(harmless):
            raise UsageError("refusal_ablation: give harmful and harmless prompts, or neither")
        self.harmful, self.harmless, self.layers = tuple(harmful), tuple(harmless), tuple(layers)
        self.found: dict[tuple[str, str], dict[int, tuple[float, ...]]] = {}

    @property
    def most_queries(self) -> int:
        """One for each layer; the means, which all behaviours share, are a few prompts more."""
        return len(self.layers or DEPTHS)

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt a layer until one succeeds. Raises CapabilityError when there is no open model."""
        model = _opened(target)
        for layer, vector in list(self._directions(model, case.language).items())[: budget.queries]:
            ablated = model.with_interventions(
                [Intervention(kind="ablate", layer=i, vector=vector) for i in range(model.n_layers)]
            )
            notes = {
                "layer": layer,
                "altered": ablated.fingerprint,
                "check": {"kind": "open_weights"},
                "past_guards": target.fingerprint != model.fingerprint,
            }
            asked = request(case, case.prompt, budget)
            (attempt,) = send(case, self.name, ablated, judge, budget, [asked], [notes])
            yield attempt
            if succeeded(attempt):
                return

    def _directions(self, model: WhiteBox, language: str) -> dict[int, tuple[float, ...]]:
        """Layer → mean of harmful minus mean of harmless prompts, for layers in which they differ."""
        key = (model.fingerprint, language)
        if key not in self.found:
            layers = self.layers or tuple(
                dict.fromkeys(min(model.n_layers - 1, int(model.n_layers * d)) for d in DEPTHS)
            )
            means = [
                model.activations([_asked(p) for p in prompts], layers=layers, position="last").float().mean(dim=0)
                for prompts in self._prompts(language)
            ]
            difference = means[0] - means[1]
            self.found[key] = {
                layer: tuple(map(float, difference[i])) for i, layer in enumerate(layers) if bool(difference[i].any())
            }
        return self.found[key]

    def _prompts(self, language: str) -> tuple[Sequence[str], Sequence[str]]:
        if self.harmful:
            return self.harmful, self.harmless
        pairs = local(texts(FILE), language)
        return pairs["harmful"], pairs["harmless"]


def _asked(prompt: str) -> tuple[Message, ...]:
    return (Message(role="user", content=prompt),)


def _opened(target: Model) -> WhiteBox:
    """The open model inside `target`'s wrappers."""
    model: Any = target
    while model is not None and not isinstance(model, WhiteBox):
        model = getattr(model, "inner", None)
    if model is None:
        raise CapabilityError(
            f"attack refusal_ablation needs interventions, and there is no open model inside {target.name}",
            expected="weights on this machine",
            next_step="attack a local model (smollm2, hf:org/name, a path), or use a black-box attack",
        )
    require(model, Capability.ACTIVATIONS, Capability.INTERVENTIONS, for_="attack refusal_ablation")
    opened: WhiteBox = model
    return opened


def attack(harmful: Sequence[str] = (), harmless: Sequence[str] = (), layers: Sequence[int] = ()) -> RefusalAblation:
    """The attack, with prompts and layers of one's own if given."""
    return RefusalAblation(harmful, harmless, layers)
