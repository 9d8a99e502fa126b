"""How strongly a policy is held to its reference: a fixed weight of the KL penalty, or one that seeks a target.

    weight <- weight (1 + clip( KL / target - 1, -0.2, 0.2 ) n / horizon)

with KL the mean KL divergence of an answer (nats, summed over tokens) and n the answers of the round. Source: Ziegler et
al. 2019 (arXiv:1909.08593), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from fivefold.align import _ranges

CLIP = 0.2


@dataclass(frozen=True, kw_only=True)
class KLControl:
    """The weight of the KL penalty in the reward."""

    weight: float = 0.05
    """Reward per nat, at the start or for good."""
    target: float | None = None
    """KL of a whole answer (nats) to keep near; None keeps the weight fixed."""
    horizon: int = 1000
    """Answers over which the weight adapts."""

    def __post_init__(self) -> None:
        _ranges.numbers(self, "weight", below=True)
        _ranges.numbers(self, "target", above=True, below=True)
        _ranges.counts(self, "horizon")


def next_weight(weight: float, kl: float, n: int, control: KLControl) -> float:
    """The weight after a round of `n` answers whose mean KL was `kl`."""
    if control.target is None:
        return weight
    error = min(max(kl / control.target - 1, -CLIP), CLIP)
    return weight * (1 + error * n / control.horizon)
