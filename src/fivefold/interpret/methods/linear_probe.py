"""A concept's probe: logistic regression with an L2 penalty on standardised activations.

Source: Alain & Bengio 2016, "Understanding intermediate layers using linear classifier probes" (arXiv 1610.01644). The
penalty grows with the number of training prompts, so that its strength means the same for any amount of data.
Cost: one forward pass per prompt up to the layer, and a few Newton steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fivefold.interpret._fit import Read, train_one
from fivefold.interpret._linear import logistic_fit
from fivefold.interpret.artifacts import ProbeArtifact
from fivefold.interpret.protocol import MethodResult
from fivefold.runtime.protocol import Capability, WhiteBox
from fivefold.types import Case

__all__ = ["LinearProbe", "method"]


class LinearProbe:
    """Probe at one layer; score = log-odds of the positive kind."""

    name = "linear_probe"
    needs = frozenset({Capability.ACTIVATIONS})

    def __init__(self, concept: str = "harmfulness", ridge: float = 0.1, **place: Any) -> None:
        self.concept, self.ridge, self.read = concept, ridge, Read(**place)

    def fit(self, model: WhiteBox, positive: Sequence[Case], negative: Sequence[Case]) -> ProbeArtifact:
        """The probe with thresholds and held-out scores."""
        fit = logistic_fit(self.ridge)
        return train_one(model, positive, negative, read=self.read, concept=self.concept, method=self.name, fit=fit)

    def run(self, model: WhiteBox, positive: Sequence[Case], negative: Sequence[Case] = ()) -> MethodResult:
        """The probe as an artifact, with its AUROCs as measurements."""
        return MethodResult.of_probe(self.fit(model, positive, negative))


def method(**options: Any) -> LinearProbe:
    """Options: `concept`, `ridge`, `layer`, `position`, `languages`, `target_fpr`."""
    return LinearProbe(**options)
