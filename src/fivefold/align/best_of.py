"""Best of N: draw N answers to each prompt and keep the one with the highest reward.

The simplest use of a reward model, and the yardstick for every policy trained on one. KL(best of N || policy) is at most
log N - (N - 1) / N nats (Beirami et al. 2024, arXiv:2401.01879). Source: Stiennon et al. 2020 (arXiv:2009.01325).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fivefold.align._adapter import packed_copy
from fivefold.align._rollouts import Sampler
from fivefold.align.rewards import Reward, Sample, Value, checked
from fivefold.runtime.compute import on_compute_thread
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.types import Case


@dataclass(frozen=True, kw_only=True)
class Best:
    """A prompt's best answer with its reward, and all rewards in the order drawn (None: not scored; Errored: the reward failed).

    `sample` is None where no answer has a reward: nothing is then best.
    """

    case: Case
    sample: Sample | None
    reward: float | None
    rewards: tuple[Value, ...]


@on_compute_thread
def best_of(
    model: WhiteBox,
    cases: Sequence[Case],
    reward: Reward,
    n: int,
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[Best]:
    """The best of `n` sampled answers to each case by `reward`; the same on every call with the same seed."""
    require(model, Capability.GRADIENTS, for_="drawing many answers from one prefill")
    sampler = Sampler(
        model, packed_copy(model.module), samples=n, limit=max_new_tokens, temperature=temperature, seed=seed
    )
    _, samples = sampler.draw(cases, 0)
    rewards = checked(reward, samples)
    return [_best(cases[b], samples[b * n : (b + 1) * n], rewards[b * n : (b + 1) * n]) for b in range(len(cases))]


def _best(case: Case, samples: Sequence[Sample], rewards: Sequence[Value]) -> Best:
    scored = [(r, -i) for i, r in enumerate(rewards) if isinstance(r, float)]
    if not scored:
        return Best(case=case, sample=None, reward=None, rewards=tuple(rewards))
    value, place = max(scored)
    return Best(case=case, sample=samples[-place], reward=value, rewards=tuple(rewards))
