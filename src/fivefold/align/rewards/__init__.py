"""Reward functions as plain Python: samples in, a number for each out, or None where there is nothing to score.

A reward is any callable `(samples) -> [float | None, …]`; `each` makes one from a function of one sample, `total` adds
several with weights. None is "no reward" (a case without a target); a reward that raises, or gives what is no finite
number, is an `Errored` sample. Both are left out of their group's baseline and are not learnt from. Neither counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fivefold.errors import TrainingError, UsageError
from fivefold.types import Case, Completion, Errored


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


Value: TypeAlias = float | Errored | None
"""What a reward says of one sample: a number (higher is better), nothing, or that it failed."""

Reward: TypeAlias = Callable[[Sequence[Sample]], Sequence[Value]]
"""Values of samples, in their order."""


def each(score: Callable[[Sample], Value]) -> Reward:
    """The reward that scores one sample at a time; where `score` raises, that sample alone is errored."""

    def one(sample: Sample) -> Value:
        try:
            return score(sample)
        except Exception as error:
            return failed(error)

    return lambda samples: [one(s) for s in samples]


def failed(error: Exception) -> Errored:
    """A sample whose reward raised. A wrong use of fivefold is no matter of a sample: it is raised again."""
    if isinstance(error, UsageError):
        raise error
    return Errored(error=f"{type(error).__name__}: {error}")


def total(*parts: tuple[float, Reward]) -> Reward:
    """The weighted sum of rewards; errored where any of them is, else None where any of them has none."""

    def reward(samples: Sequence[Sample]) -> list[Value]:
        found = [(weight, checked(part, samples)) for weight, part in parts]
        return [_sum([(w, values[i]) for w, values in found]) for i in range(len(samples))]

    return reward


def _sum(parts: Sequence[tuple[float, Value]]) -> Value:
    error = next((v for _, v in parts if isinstance(v, Errored)), None)
    if error is not None:
        return error
    known = [w * v for w, v in parts if isinstance(v, float)]
    return sum(known) if len(known) == len(parts) else None


def checked(reward: Reward, samples: Sequence[Sample]) -> list[Value]:
    """The rewards of `samples`, each a finite float, None or Errored; TrainingError when they are not as many."""
    try:
        found = list(reward(samples))
    except Exception as error:
        return [failed(error)] * len(samples)
    if len(found) != len(samples):
        raise TrainingError(
            "a reward function gave something that is no reward",
            expected=f"{len(samples)} values, a number or None for each sample",
            got=f"{len(found)} values",
        )
    return [_number(value) for value in found]


def _number(value: object) -> Value:
    if value is None or isinstance(value, Errored):
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return Errored(error=f"the reward is {value!r}, no number")
    return number if math.isfinite(number) else Errored(error=f"the reward is {number}")


def scores(values: Sequence[Value]) -> list[float]:
    """The numbers among `values`."""
    return [v for v in values if isinstance(v, float)]
