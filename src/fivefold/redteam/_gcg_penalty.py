"""What an adaptive search knows of a probe that guards its target. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from fivefold.errors import UnknownNameError, UsageError


@dataclass(frozen=True, kw_only=True)
class DirectionPenalty:
    """weight · relu(logit - margin), with logit = ((x - mean) / scale) · vector + bias, of a linear probe.

    x is the attacked model's residual stream after decoder layer `layer`, at the prompt's last token (the end of the
    chat template, before the answer) or averaged over the prompt's tokens without the first, as
    `WhiteBox.activations` reads it. The probe must be read on the attacked model itself: a guard that runs its probe
    on other weights is not described by this.
    """

    layer: int
    """Decoder layer, 0-based."""
    vector: tuple[float, ...]
    """The probe's weights, one for each of the D dimensions."""
    bias: float = 0.0
    """The probe's intercept; with the guard's decision threshold subtracted, logit 0 is where the guard fires."""
    mean: tuple[float, ...] | float = 0.0
    """Subtracted from x: D numbers or one for all."""
    scale: tuple[float, ...] | float = 1.0
    """x is divided by this: D numbers or one for all."""
    position: Literal["last", "mean"] = "last"
    """Where the probe reads."""
    weight: float = 1.0
    """Nats of target loss that one unit of logit above the margin costs."""
    margin: float = 0.0
    """Logit that the search is content with; below the guard's threshold by as much as noise may need."""

    @classmethod
    def of(cls, given: DirectionPenalty | Mapping[str, Any]) -> DirectionPenalty:
        """A penalty from a mapping, as a plan or an artifact holds it."""
        if isinstance(given, DirectionPenalty):
            return given
        known = [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                raise UnknownNameError("key of a penalty", key, known)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return cls(**values)

    def arrays(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """`vector`, `mean` and `scale`, each with D numbers."""
        return self.vector, self._wide(self.mean), self._wide(self.scale)

    def _wide(self, value: tuple[float, ...] | float) -> tuple[float, ...]:
        return value if isinstance(value, tuple) else (float(value),) * len(self.vector)

    def check(self, n_layers: int, width: int) -> None:
        """Raise UsageError unless the penalty fits a model of `n_layers` layers and `width` dimensions."""
        if not 0 <= self.layer < n_layers:
            raise UsageError(
                "a penalty names a layer that the model does not have", expected=f"0 … {n_layers - 1}", got=self.layer
            )
        lengths = [len(a) for a in self.arrays()]
        if lengths != [width] * 3:
            raise UsageError(
                "a penalty does not fit the residual stream", expected=f"{width} numbers", got=f"{lengths} numbers"
            )
        if self.position not in ("last", "mean"):
            raise UsageError("a penalty reads at an unknown position", expected="last or mean", got=self.position)
        if not all(self._wide(self.scale)):
            raise UsageError("a penalty's scale is zero in some dimension", expected="positive numbers")
