"""Reward functions as plain Python: samples in, a number for each out, or None where there is nothing to score.

A reward is any callable `(samples) -> [float | None, …]`; `each` makes one from a function of one sample, `total` adds
several with weights. None is "no reward" (a judge that failed, a case without a target): such a sample is left out of
its group's baseline and is not learnt from. It never counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fivefold.errors import TrainingError
from fivefold.types import Case, Completion


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sampled answer. `ended` is False where the length limit cut it off; `tokens` include the end of turn.

    `logps` are the tokens' log-probabilities as the one who drew them computed them, where that is not the trainer.
    """

    case: Case
    text: str
    tokens: tuple[int, ...]
    ended: bool
    logps: tuple[float, ...] | None = None

    def completion(self) -> Completion:
        """The same as a completion, for scorers."""
        return Completion(text=self.text, model="", stop_reason="stop" if self.ended else "length", tokens=self.tokens)


Reward: TypeAlias = Callable[[Sequence[Sample]], Sequence[float | None]]
"""Rewards of samples, in their order; higher is better."""


def each(score: Callable[[Sample], float | None]) -> Reward:
    """The reward that scores one sample at a time."""
    return lambda samples: [score(s) for s in samples]


def total(*parts: tuple[float, Reward]) -> Reward:
    """The weighted sum of rewards; None where any of them has none."""

    def reward(samples: Sequence[Sample]) -> list[float | None]:
        found = [(weight, checked(part, samples)) for weight, part in parts]
        return [_sum([(w, values[i]) for w, values in found]) for i in range(len(samples))]

    return reward


def _sum(parts: Sequence[tuple[float, float | None]]) -> float | None:
    return None if any(v is None for _, v in parts) else sum(w * v for w, v in parts if v is not None)


def checked(reward: Reward, samples: Sequence[Sample]) -> list[float | None]:
    """The rewards of `samples`; TrainingError when there are too few, or one is not a finite number."""
    found = list(reward(samples))
    wrong = [v for v in found if v is not None and not math.isfinite(v)]
    if len(found) != len(samples) or wrong:
        raise TrainingError(
            "a reward function gave something that is no reward",
            expected=f"{len(samples)} finite numbers, None where there is nothing to score",
            got=f"{len(found)} values" + (f", among them {wrong[0]}" if wrong else ""),
        )
    return found
