"""Changes to the residual stream as forward hooks on decoder layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fivefold.errors import UsageError
from fivefold.runtime.protocol import Intervention


def attach(layers: nn.ModuleList, interventions: Sequence[Intervention], width: int) -> None:
    """Put `interventions` on the output of their layers, in order, for the life of the module.

    Attach them to a module of one's own (`_structure.share`), so that no other handle sees them.
    """
    for intervention in interventions:
        _check(intervention, len(layers), width)
        layers[intervention.layer].register_forward_hook(_hook(intervention))


def _check(intervention: Intervention, n_layers: int, width: int) -> None:
    if not 0 <= intervention.layer < n_layers:
        raise UsageError(
            "an intervention names a layer that the model does not have",
            expected=f"0 … {n_layers - 1}",
            got=intervention.layer,
        )
    if len(intervention.vector) != width:
        raise UsageError(
            "an intervention's vector does not fit the residual stream",
            expected=f"{width} numbers",
            got=len(intervention.vector),
        )
    if intervention.kind in ("ablate", "clamp") and not any(intervention.vector):
        raise UsageError(f"cannot {intervention.kind} along a zero vector", expected="a direction")


def _hook(intervention: Intervention) -> Callable[[nn.Module, Any, Any], Any]:
    change = _change(intervention)

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    return hook


def _change(intervention: Intervention) -> Callable[[Tensor], Tensor]:
    vector = torch.tensor(intervention.vector, dtype=torch.float32)
    unit = vector / vector.norm() if bool(vector.any()) else vector
    scale, kind = intervention.scale, intervention.kind

    def change(x: Tensor) -> Tensor:
        if kind == "add":
            return x + scale * vector.to(x)
        if kind == "replace":
            return vector.to(x).expand_as(x)
        direction = unit.to(x)
        along = (x @ direction).unsqueeze(-1)
        return x + ((scale if kind == "clamp" else 0.0) - along) * direction

    return change
