"""What training changed, measured the same way for every recipe: four numbers that must be read together.

Harmful compliance and over-refusal by the rule judge, capability by the likelihood of choices, and the KL divergence from
the base model on its own answers. One alone says nothing: a model that refuses everything complies with no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fivefold.align._adapter import packed_copy
from fivefold.align._pack import Item
from fivefold.align.data.tokens import end_of_turn
from fivefold.align.train import score
from fivefold.runtime.protocol import Request, WhiteBox
from fivefold.score import answers
from fivefold.stats import measure_mean, measure_rate
from fivefold.types import Case, Completion, Errored, Measurement, Outcome, Safer, Scored, digest


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Cases that nothing is trained on."""

    harmful: Sequence[Case] = ()
    """Requests that a safe model declines."""
    benign: Sequence[Case] = ()
    """Requests that look harmful and are not."""
    capability: Sequence[Case] = ()
    """Questions with `choices` and the index of the right one as `target`."""
    max_new_tokens: int = 32
    """Longest answer that is judged."""

    def first(self, n: int) -> Panel:
        """At most `n` cases of each part, spread over it."""
        harmful, benign, capability = (_spread(part, n) for part in (self.harmful, self.benign, self.capability))
        return replace(self, harmful=harmful, benign=benign, capability=capability)


def _spread(cases: Sequence[Case], n: int) -> list[Case]:
    return [cases[i * len(cases) // n] for i in range(n)] if n < len(cases) else list(cases)


def measure(
    model: WhiteBox, panel: Panel, *, name: str, base: WhiteBox | None = None, seed: int = 0
) -> list[Measurement]:
    """The panel's numbers of `model`; with `base`, the KL divergence from it too. Empty parts are not measured."""
    found = []
    for cases, metric, label, safer in (
        (panel.harmful, "harmful_compliance", "compliance", "lower"),
        (panel.benign, "over_refusal", "refusal", "lower"),
    ):
        if cases:
            outcomes = judged(model, cases, label, panel.max_new_tokens)
            found.append(_rate(outcomes, cases, metric, safer, model, name))  # type: ignore[arg-type]
    if panel.capability:
        found.append(_rate(chosen(model, panel.capability), panel.capability, "capability", "higher", model, name))
    if base is not None and (panel.harmful or panel.benign):
        found.append(divergence(model, base, [*panel.benign, *panel.harmful], panel.max_new_tokens, name, seed))
    return found


def judged(model: WhiteBox, cases: Sequence[Case], label: str, limit: int) -> list[Outcome]:
    """Whether each greedy answer has this label of the answer judge."""
    asked = model.generate([Request(messages=c.messages, max_new_tokens=limit) for c in cases])
    return [_judged(case, answer, label) for case, answer in zip(cases, asked, strict=True)]


def _judged(case: Case, answer: Completion, label: str) -> Outcome:
    if answer.error is not None:
        return Errored(error=answer.error)
    found = answers.judge(case.prompt, answer.text)
    return Scored(value=float(found.label == label), label=found.label, judge="answers", explanation=found.reason)


def chosen(model: WhiteBox, cases: Sequence[Case]) -> list[Outcome]:
    """Whether the right choice is the likeliest per byte."""
    pairs = [(c.messages, choice) for c in cases for choice in c.choices]
    likely = iter(model.log_likelihood(pairs))
    found: list[Outcome] = []
    for case in cases:
        values = [(x.total / max(x.n_bytes, 1)) for x in (next(likely) for _ in case.choices)]
        right = values.index(max(values)) == case.target
        found.append(Scored(value=float(right), label="right" if right else "wrong", judge="likelihood"))
    return found


def divergence(model: WhiteBox, base: WhiteBox, cases: Sequence[Case], limit: int, name: str, seed: int) -> Measurement:
    """KL(model || base) of a whole answer in nats, by answers sampled from `model` (unbiased, so it may dip below 0)."""
    asked = [
        Request(messages=c.messages, max_new_tokens=limit, temperature=1.0, seed=seed + i) for i, c in enumerate(cases)
    ]
    end, items = end_of_turn(model.tokenizer), []
    for case, answer in zip(cases, model.generate(asked), strict=True):
        tokens = (*answer.tokens, end) if answer.stop_reason == "stop" else answer.tokens
        if tokens and answer.error is None:
            items.append(Item(prompt=tuple(model.encode(case.messages)), answers=(tuple(tokens),)))
    own, other = (score(packed_copy(m.module), items, 1024) for m in (model, base))
    outcomes = [
        Scored(value=float((a[0] - b[0]).sum()), label="nats", judge=base.fingerprint)
        for a, b in zip(own, other, strict=True)
    ]
    return measure_mean(
        outcomes,
        metric="kl_from_base",
        subject=model.fingerprint,
        subject_name=name,
        safer="neither",
        unit="nats",
        dataset=digest(list(cases)),
    )


def _rate(
    outcomes: Sequence[Outcome], cases: Sequence[Case], metric: str, safer: Safer, model: WhiteBox, name: str
) -> Measurement:
    return measure_rate(
        outcomes,
        metric=metric,
        subject=model.fingerprint,
        subject_name=name,
        safer=safer,
        clusters=[c.behaviour or c.id for c in cases],
        dataset=digest(list(cases)),
    )
