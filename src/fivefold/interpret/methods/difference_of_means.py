"""A concept's direction as the difference between the mean activations of two kinds of prompt.

Source: Arditi et al. 2024, "Refusal in language models is mediated by a single direction" (arXiv 2406.11717, section
2.3); also Zou et al. 2023, "Representation engineering" (arXiv 2310.01405). Deviation: the direction is chosen by how
well it separates held-out prompts (`layer_sweep`), not by its effect on refusals, since the effect is measured apart
(`cause`). Cost: one forward pass per prompt up to the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fivefold.interpret._fit import Read, train_one
from fivefold.interpret._linear import fit_difference
from fivefold.interpret.artifacts import ProbeArtifact
from fivefold.interpret.protocol import MethodResult
from fivefold.runtime.protocol import Capability, WhiteBox
from fivefold.types import Case

__all__ = ["DifferenceOfMeans", "method"]


class DifferenceOfMeans:
    """Direction at one layer; score = length along it from the midpoint of the two means."""

    name = "difference_of_means"
    needs = frozenset({Capability.ACTIVATIONS})

    def __init__(self, concept: str = "harmfulness", **place: Any) -> None:
        self.concept, self.read = concept, Read(**place)

    def fit(self, model: WhiteBox, positive: Sequence[Case], negative: Sequence[Case]) -> ProbeArtifact:
        """The direction with thresholds and held-out scores."""
        return train_one(
            model, positive, negative, read=self.read, concept=self.concept, method=self.name, fit=fit_difference
        )

    def run(self, model: WhiteBox, positive: Sequence[Case], negative: Sequence[Case] = ()) -> MethodResult:
        """The direction as an artifact, with its AUROCs as measurements."""
        return MethodResult.of_probe(self.fit(model, positive, negative))


def method(**options: Any) -> DifferenceOfMeans:
    """Options: `concept`, `layer`, `position`, `languages`, `target_fpr`."""
    return DifferenceOfMeans(**options)
