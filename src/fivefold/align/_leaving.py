"""Which weights a run leaves: the last ones, their running average, or the best on held-out data.

The average is exponential (EMA): a <- d a + (1 - d) w after every step, with d = min(decay, (1 + t) / (10 + t)) after t
steps, so that a short run is not an average of its start. Polyak & Juditsky 1992; the warm-up of d is the one of
TensorFlow's `ExponentialMovingAverage`. What is measured, and left, is the average where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from fivefold.align._masters import Masters
from fivefold.align._processes import ALONE, Processes

if TYPE_CHECKING:
    from fivefold.align._loop import TrainConfig

Measure: TypeAlias = Callable[[], float]
"""The loss on held-out data under the weights as they stand; lower is better."""


@dataclass
class Leaving:
    """Follows the numbers that a run's steps are taken on (`_masters`) and knows what to leave of them."""

    masters: Masters
    config: TrainConfig
    measure: Measure | None = None
    together: Processes = ALONE
    average: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None
    best_loss: float | None = None
    best_step: int = 0
    since: int = 0

    def after(self, step: int, total: int) -> dict[str, float]:
        """Take in the weights after 0-based `step`; returns the held-out loss when it was measured."""
        if self.config.ema is not None:
            self._average(step)
        every = self.config.check_steps
        if self.measure is None or every is None or ((step + 1) % every and step + 1 != total):
            return {}
        with self.shown():
            loss = self.measure()
        self._compare(loss, step)
        return {"held_out": loss}

    @property
    def over(self) -> bool:
        """Whether the held-out loss has not fallen for as many measurements as patience allows."""
        return self.config.patience is not None and self.since >= self.config.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this."""
        kept = {"average": self.average, "best": self.best}
        whole = {k: None if v is None else self.together.whole(v) for k, v in kept.items()}
        return {**whole, "best_loss": self.best_loss, "best_step": self.best_step, "since": self.since}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        for name in ("average", "best"):
            kept = state[name]
            part, like = self.together.part, self.masters.params
            setattr(self, name, None if kept is None else {n: part(t, like[n]) for n, t in kept.items()})
        self.best_loss, self.best_step, self.since = state["best_loss"], state["best_step"], state["since"]

    def settle(self, steps: int) -> dict[str, Any]:
        """Put the weights to leave into the parameters after `steps` steps; returns which ones they are."""
        chosen, kind, step = None, "last", steps
        if self.best is not None:
            chosen, kind, step = self.best, "best", self.best_step
        elif self.average is not None:
            chosen, kind = self.average, "average"
        if chosen is not None:
            self.masters.put(chosen)
        return {"kind": kind, "step": step, "averaged": self.average is not None, "held_out": self.best_loss}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The averaged weights inside, where there are any."""
        if self.average is None:
            yield
            return
        now = {n: p.detach().clone() for n, p in self.masters.params.items()}
        self.masters.put(self.average)
        try:
            yield
        finally:
            self.masters.put(now)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        if self.average is None:
            self.average = {n: p.detach().float().clone() for n, p in self.masters.params.items()}
            return
        assert self.config.ema is not None
        decay = min(self.config.ema, (1 + step) / (10 + step))
        for name, p in self.masters.params.items():
            self.average[name].lerp_(p.float(), 1 - decay)

    def _compare(self, loss: float, step: int) -> None:
        if self.best_loss is not None and loss >= self.best_loss - self.config.least_gain:
            self.since += 1
            return
        source = self.average or {n: p.detach() for n, p in self.masters.params.items()}
        self.best = {n: t.clone() for n, t in source.items()}
        self.best_loss, self.best_step, self.since = loss, step + 1, 0
