"""The contract of an interpretability method: a white-box model and cases in, artifacts and measurements out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fivefold.interpret.artifacts import ProbeArtifact, Separation
from fivefold.runtime.protocol import Capability, WhiteBox
from fivefold.types import Case, Measurement


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What a method leaves: artifacts by name, measurements for the record, and a table (JSON rows) for people."""

    artifacts: Mapping[str, ProbeArtifact] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    table: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of_probe(cls, artifact: ProbeArtifact) -> MethodResult:
        """The result of a method that trains one probe."""
        rows = [measurement(artifact, language, s) for language, s in artifact.auroc.items()]
        table = tuple({"layer": artifact.layer, "language": k, **vars(s)} for k, s in artifact.auroc.items())
        return cls(artifacts={artifact.method: artifact}, measurements=tuple(rows), table=table)


def measurement(artifact: ProbeArtifact, language: str, s: Separation) -> Measurement:
    """An artifact's AUROC on the test split as a measurement."""
    return Measurement(
        metric=f"probe_auroc/{artifact.concept}",
        subject=artifact.model,
        subject_name=artifact.model_name,
        estimate=s.estimate,
        low=s.low,
        high=s.high,
        level=s.level,
        n_scored=s.n_positive + s.n_negative,
        unit="auroc",
        slice={"language": language, "layer": str(artifact.layer), "method": artifact.method, "split": "test"},
        dataset=artifact.dataset,
        method="DeLong, clustered by behaviour (Obuchowski 1997)",
        metadata={"artifact": artifact.digest, "n_positive": s.n_positive, "n_negative": s.n_negative},
    )


class Method(Protocol):
    """One method, as its module's `method(**options)` factory returns it."""

    name: str
    needs: frozenset[Capability]

    def run(self, model: WhiteBox, positive: Sequence[Case], negative: Sequence[Case] = ()) -> MethodResult:
        """Study `positive` cases, against `negative` ones where the method compares two kinds."""
        ...
