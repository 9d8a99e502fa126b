"""Harmful requests by what a model makes of them: a linear probe on its residual stream.

The probe is an artifact of `fivefold interpret` and reads the model that it was trained on; run on the protected
model's own base it costs part of the prompt's forward pass. Reads every view of the prompt and keeps the worst;
abstains where the artifact has no measured threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fivefold.errors import ModelError
from fivefold.guard._files import Probe, read_probe
from fivefold.guard._scored import Scored, judge, measured
from fivefold.guard.normalise import View
from fivefold.guard.texts import views_of, with_new_message
from fivefold.runtime.protocol import Capability, Context, WhiteBox, require
from fivefold.types import Exchange, Stage, Taxonomy, Verdict, digest

TAXONOMY = Taxonomy(
    surface="user prompt", technique="harmful request", owasp=("LLM01:2025",), atlas=("AML.T0054", "AML.T0068")
)
"""What it stands against, in the words of the public catalogues."""


class ProbeGuard:
    """One probe on one model, at the input stage."""

    def __init__(
        self,
        probe: Probe,
        model: WhiteBox,
        *,
        languages: Sequence[str] | None = None,
        assume: str | None = None,
        any_model: bool = False,
        name: str = "probe",
    ) -> None:
        require(model, Capability.ACTIVATIONS, for_=f"guard {name}")
        _fits(probe, model, any_model)
        self.probe, self.model, self.assume, self.name = probe, model, assume, name
        self.stages: frozenset[Stage] = frozenset({"input"})
        known = probe.thresholds if languages is None else {k: probe.thresholds[k] for k in languages}
        self.thresholds = {k: t.value for k, t in known.items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over the probe's file, the model it reads and the thresholds in use."""
        return digest([self.probe.digest, self.model.fingerprint, self.thresholds, self.assume])

    def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange; all views of all exchanges go through the model together."""
        views = [self._judged_views(exchange) for exchange in exchanges]
        contexts = [_context(e, v) for e, vs in zip(exchanges, views, strict=True) for v in vs]
        scores = iter(self._scores(contexts))
        return [
            judge(
                self.name,
                self.probe.concept,
                [Scored(view=v, score=float(next(scores))) for v in vs],
                self.thresholds,
                exchange,
                self.assume,
            )
            for exchange, vs in zip(exchanges, views, strict=True)
        ]

    def _judged_views(self, exchange: Exchange) -> list[View]:
        """The views that hold a measured language: no forward pass is spent on the others."""
        return [v for v in views_of(exchange) if measured(v, self.thresholds, exchange, self.assume)]

    def _scores(self, contexts: Sequence[Context]) -> NDArray[np.float64]:
        if not contexts:
            return np.zeros(0)
        position = self.probe.position
        x = self.model.activations(contexts, layers=[self.probe.layer], position=position)  # type: ignore[arg-type]
        scores = self.probe.score(np.asarray(x.cpu().numpy())[:, 0])
        if not np.isfinite(scores).all():
            raise ModelError("the probe's score is not a finite number", next_step="check the model's weights")
        return scores


def _context(exchange: Exchange, view: View) -> Context:
    return exchange.messages if view.name == "plain" else with_new_message(exchange.messages, "input", view.text)


def _fits(probe: Probe, model: WhiteBox, any_model: bool) -> None:
    if probe.layer >= model.n_layers or len(probe.weight) != model.d_model:
        raise ModelError(
            f"the probe does not fit {model.name}",
            expected=f"layer {probe.layer}, width {len(probe.weight)}",
            got=f"{model.n_layers} layers, width {model.d_model}",
        )
    if probe.model != model.fingerprint and not any_model:
        raise ModelError(
            f"the probe was trained on another model than {model.name}",
            expected=probe.model,
            got=model.fingerprint,
            next_step="give it the model it was trained on, or any_model=True and measure its thresholds anew",
        )


def guard(
    artifact: str | Path,
    model: WhiteBox,
    *,
    digest: str | None = None,
    languages: Sequence[str] | None = None,
    assume: str | None = None,
    any_model: bool = False,
    name: str = "probe",
) -> ProbeGuard:
    """`artifact`: a probe file (checked against `digest` if given). `model`: the open model that it reads. `languages`:
    those to judge (None: all with a threshold). `assume`: the language whose threshold serves for languages without one
    (None: abstain). `any_model`: read a model that the probe was not trained on."""
    probe = read_probe(Path(artifact), digest=digest)
    return ProbeGuard(probe, model, languages=languages, assume=assume, any_model=any_model, name=name)
