"""A number with everything that is needed to trust, compare or reject it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Safer: TypeAlias = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One estimate with its interval, on one slice.

    `estimate`, `low` and `high` are None when nothing was scored: no scores is "no measurement", not 0. `subject` is
    the model fingerprint, `subject_name` what people call it. `dataset`, `code` and `judge` are digests. `corrects`
    names the id of the raw measurement when this one is corrected for the judge's measured error.
    """

    metric: str
    subject: str
    subject_name: str
    estimate: float | None
    low: float | None
    high: float | None
    level: float = 0.95
    n_scored: int = 0
    n_unscored: int = 0
    n_errored: int = 0
    unit: str = "proportion"
    safer: Safer = "neither"
    slice: Mapping[str, str] = field(default_factory=dict)
    dataset: str = ""
    code: str = ""
    judge: str = ""
    method: str = ""
    run: str = ""
    id: str = ""
    corrects: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether there is a number at all."""
        return self.estimate is not None

    @property
    def risk_bound(self) -> float | None:
        """The end of the interval that is worse for safety."""
        return self.high if self.safer == "lower" else self.low
