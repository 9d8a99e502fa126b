"""A model that several processes have: each answers its share of what all of them ask, and all have all answers.

A recipe that `accelerate launch` started runs in every process from the first line to the last. Its trainers share the work
of a step (`_processes`); here its questions are shared: answers that are trained on, a judge's, those that are measured. What
every process asks must be the same, in the same order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fivefold.align._processes import Processes
from fivefold.runtime.protocol import Model

M = TypeVar("M", bound=Model)
T = TypeVar("T")
SHARED = ("generate", "log_likelihood")
HANDLES = ("with_adapter", "with_interventions")


def divided(model: M, together: Processes) -> M:
    """`model` with its questions shared over the processes, and so with every handle on its weights made from it; in one
    process the model itself. What hears of answers while they come (`on_done`) hears of this process's."""
    if together.size == 1:
        return model
    made = copy.copy(model)
    of_model = {name: getattr(model, name) for name in (*SHARED, *HANDLES) if hasattr(model, name)}
    shared = {name: _shared(ask, together) for name, ask in of_model.items() if name in SHARED}
    handles = {name: _handle(make, together) for name, make in of_model.items() if name in HANDLES}
    vars(made).update({**shared, **handles})
    return made


def _shared(ask: Callable[..., Sequence[T]], together: Processes) -> Callable[..., list[T]]:
    """A method that answers a list of questions, each process a run of them."""

    def asked(questions: Sequence[Any], **how: Any) -> list[T]:
        return together.divided(len(questions), lambda part: ask(questions[part.start : part.stop], **how))

    return asked


def _handle(make: Callable[..., M], together: Processes) -> Callable[..., M]:
    """A method that makes another model of this one."""
    return lambda *args, **how: divided(make(*args, **how), together)
