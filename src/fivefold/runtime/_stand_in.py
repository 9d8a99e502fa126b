"""Forwards that stand for modules' own for the time of a call, and copies that never see them.

A model may be copied on another thread (a handle with interventions, an adapter to train) while it computes on its own: the
copy gets the modules' own forwards.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

changing = threading.Lock()
"""Held while modules are copied, and while something is put into them or taken out."""


class StandIn:
    """A module's forward for the time of a call."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._forward(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        return self


@contextmanager
def standing_in(forwards: Sequence[tuple[nn.Module, Callable[..., Tensor]]]) -> Iterator[None]:
    """Within the block these forwards stand for the modules' own; a module that was given one already keeps it."""
    changed = []
    with changing:
        for module, forward in forwards:
            if "forward" not in vars(module):
                module.forward = StandIn(forward)
                changed.append(module)
    try:
        yield
    finally:
        with changing:
            for module in changed:
                del module.forward


def copied(module: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy of a module as it is when nothing stands in."""
    with changing:
        made = copy.deepcopy(module, memo)
    for part in made.modules():
        if isinstance(vars(part).get("forward"), StandIn):
            del part.forward
    return made
