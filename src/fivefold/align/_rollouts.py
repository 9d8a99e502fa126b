"""A round of samples: drawn from the policy in one batch, scored, and laid out as tensors.

All samples of a prompt share one prefill, and all prompts one continuous batch (`runtime._generate`). Each sample has
random numbers of its own, fixed by seed, round, prompt and place, so a resumed run draws what an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fivefold.align._beside import beside
from fivefold.align._merged import merged
from fivefold.align._pack import Item
from fivefold.align._processes import ALONE, Processes
from fivefold.align.data.tokens import end_of_turn
from fivefold.align.losses._rollout import informative
from fivefold.align.rewards import Reward, Sample, Value, checked
from fivefold.errors import ModelError, TrainingError
from fivefold.runtime import _generate
from fivefold.runtime._forward import Engine
from fivefold.runtime._generate import Job
from fivefold.runtime.crew import workers_of
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Case, Errored

if TYPE_CHECKING:
    from fivefold.align.rl import RLConfig


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """B prompts with G sampled answers each. `items[b].answers[g]` are the tokens of `samples[b * G + g]`.

    `rewards`, `scored`, `costs` are [B, G]; `asked` counts the prompts that were sampled to get these. `errors` has, in
    the order of the samples, why a reward or cost failed, None where it did not.
    """

    items: list[Item]
    samples: list[Sample]
    rewards: Tensor
    scored: Tensor
    costs: Tensor | None
    asked: int
    errors: Sequence[str | None] = ()

    @property
    def errored(self) -> int:
        """Samples whose reward failed."""
        return sum(e is not None for e in self.errors)

    def proxy(self) -> list[float | None]:
        """Rewards in the order of the samples."""
        pairs = zip(self.rewards.flatten().tolist(), self.scored.flatten().tolist(), strict=True)
        return [value if known else None for value, known in pairs]


class Draws(Protocol):
    """What draws a round's samples: the policy itself (`Sampler`), or workers or a server that are given it
    (`_ray.RaySampler`, `_vllm.VLLMSampler`)."""

    samples: int
    seed: int

    def refresh(self, number: int) -> None:
        """The policy has changed: round `number` follows."""

    def draw(self, cases: Sequence[Case], number: int) -> tuple[list[Item], list[Sample]]:
        """`samples` answers to each case, as items and as samples in their order."""

    def close(self) -> None:
        """Nothing more is drawn."""


Answer: TypeAlias = tuple[tuple[int, ...], bool]
"""The tokens of an answer, and whether it came to its end."""


class Follows(Protocol):
    """A copy of a policy that is fast to sample from (`_merged`, `_beside`): its `module` computes what the policy did at the
    last `update`."""

    @property
    def module(self) -> Any: ...

    def update(self) -> None: ...


class Sampler:
    """Draws from a module that is being trained, or from a copy that follows it; each of several processes a share."""

    def __init__(
        self,
        model: WhiteBox,
        module: Any,
        *,
        samples: int,
        limit: int,
        temperature: float,
        seed: int,
        copied: Follows | None = None,
        together: Processes = ALONE,
    ) -> None:
        self.copied, self.together = copied, together
        module = copied.module if copied is not None else module
        self.model, self.samples, self.limit, self.temperature, self.seed = model, samples, limit, temperature, seed
        workers = workers_of(module.get_input_embeddings().weight.device)
        self.engine = Engine(module=module, lock=threading.RLock(), slots=64 * workers, workers=workers)
        with torch.no_grad():
            self.engine.packed = self.engine.check_packing()
        self.eos = ends_of(model)

    def refresh(self, number: int) -> None:
        """Bring the copy up to date; without one, the module that is trained is the one that is asked."""
        if self.copied is not None:
            self.copied.update()

    def close(self) -> None:
        """Nothing to do."""

    def draw(self, cases: Sequence[Case], number: int) -> tuple[list[Item], list[Sample]]:
        """G answers to each case in round `number`."""
        answers = self.together.divided(
            len(cases), lambda part: self.answers([cases[i] for i in part], number, part.start)
        )
        return rolled_out(self.model, cases, answers, self.samples)

    @torch.no_grad()
    def answers(self, cases: Sequence[Case], number: int, first: int = 0) -> list[Answer]:
        """The same as tokens; the first of `cases` is number `first` of its round."""
        n, prompts = self.samples, [tuple(self.model.encode(case.messages)) for case in cases]
        jobs = [
            self._job((first + b) * n + g, prompts[b], cases[b], number, g) for b in range(len(cases)) for g in range(n)
        ]
        _generate.run(self.engine, jobs, self.eos, _raise_failed)
        return [(tuple(job.tokens), job.ended) for job in jobs]

    def _job(self, index: int, prompt: tuple[int, ...], case: Case, number: int, place: int) -> Job:
        name = f"{self.seed}/{number}/{case.id}/{index}/{place}"
        return Job(
            index=index,
            prompt=prompt,
            max_new_tokens=self.limit,
            temperature=self.temperature,
            top_p=1.0,
            seed=int(hashlib.sha256(name.encode()).hexdigest()[:15], 16),
            stopped=lambda tokens: False,
        )


class Told:
    """Samples from elsewhere (a server, Ray's workers): the first process asks for them, and the others are told."""

    def __init__(self, open_: Callable[[], Draws], config: RLConfig, together: Processes) -> None:
        self.together, self.samples, self.seed = together, config.samples, config.train.seed
        self.sampler: Draws | None = None
        together.told(lambda: self._open(open_))

    def refresh(self, number: int) -> None:
        """Give the policy away as it is now."""
        self.together.told(lambda: self._first.refresh(number))

    def draw(self, cases: Sequence[Case], number: int) -> tuple[list[Item], list[Sample]]:
        """G answers to each case in round `number`."""
        return self.together.told(lambda: self._first.draw(cases, number))

    def close(self) -> None:
        """End what the first process opened."""
        if self.sampler is not None:
            self.sampler.close()

    def _open(self, open_: Callable[[], Draws]) -> None:
        self.sampler = open_()

    @property
    def _first(self) -> Draws:
        assert self.sampler is not None
        return self.sampler


def copy_of(trained: Any, base: Any) -> Follows | None:
    """A copy of the policy `trained` over `base` that is faster to sample from, where one can be made."""
    return merged(trained, base) or beside(trained, base)


def rolled_out(
    model: WhiteBox, cases: Sequence[Case], answers: Sequence[Answer], n: int
) -> tuple[list[Item], list[Sample]]:
    """`n` answers to each case, in its order, as items and as samples."""
    items = [
        Item(
            prompt=tuple(model.encode(case.messages)),
            answers=tuple(tokens for tokens, _ in answers[b * n : (b + 1) * n]),
            group="sampled",
        )
        for b, case in enumerate(cases)
    ]
    return items, [_sample(model, cases[i // n], *answer) for i, answer in enumerate(answers)]


def _sample(model: WhiteBox, case: Case, tokens: tuple[int, ...], ended: bool) -> Sample:
    text: str = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return Sample(case=case, text=text, tokens=tokens, ended=ended)


def ends_of(model: WhiteBox) -> frozenset[int]:
    """Tokens that end an answer."""
    found = getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)
    ids = found if isinstance(found, list) else [found]
    return frozenset(
        int(i) for i in (*ids, model.tokenizer.eos_token_id, end_of_turn(model.tokenizer)) if i is not None
    )


def _raise_failed(job: Job) -> None:
    if job.error is not None:
        raise ModelError("the policy could not be sampled", got=job.error)


def prompt_order(n: int, first: int, count: int, seed: int) -> list[int]:
    """Indices of `count` prompts from place `first` of an endless stream, each pass over the n prompts in a new order."""
    order: list[int] = []
    epoch = first // n
    while len(order) < first % n + count:
        indices = list(range(n))
        random.Random(f"{seed}/{epoch}").shuffle(indices)
        order += indices
        epoch += 1
    return order[first % n : first % n + count]


def collect(
    sampler: Draws,
    cases: Sequence[Case],
    reward: Reward,
    cost: Reward | None,
    *,
    first: int,
    count: int,
    number: int,
    tries: int,
    together: Processes = ALONE,
) -> Drawn:
    """`count` prompts with their samples and rewards; `tries` > 0 draws further prompts for those without a signal. Each
    of several processes scores its share.

    Dynamic sampling (DAPO): groups whose rewards are all alike are dropped. When `tries` further draws do not fill the
    round, it is as large as it is; when nothing is left at all, that is an error that names the reward.
    """
    kept: list[_Group] = []
    asked, n = 0, sampler.samples
    for _ in range(max(1, tries + 1)):
        here = [cases[i] for i in prompt_order(len(cases), first + asked, count - len(kept), sampler.seed)]
        items, samples = sampler.draw(here, number * 1000 + asked)

        def scored(part: range, items: Any = items, samples: Any = samples) -> list[_Group]:
            own = samples[part.start * n : part.stop * n]
            return _score(items[part.start : part.stop], own, reward, cost, n)

        groups = together.divided(len(items), scored)
        asked += len(here)
        _refuse_silence(groups)
        kept += [g for g in groups if not tries or bool(informative(g.rewards[None], g.scored[None]))]
        if len(kept) == count:
            break
    if not kept:
        raise TrainingError(
            f"no prompt of {asked} had answers with different rewards",
            expected="a reward that tells answers apart",
            next_step="easier prompts, more samples, a higher temperature, or a reward in degrees",
        )
    costs = [g.costs for g in kept if g.costs is not None]
    return Drawn(
        items=[g.item for g in kept],
        samples=[s for g in kept for s in g.samples],
        rewards=torch.stack([g.rewards for g in kept]),
        scored=torch.stack([g.scored for g in kept]),
        costs=torch.stack(costs) if costs else None,
        asked=asked,
        errors=[e for g in kept for e in g.errors],
    )


@dataclass(frozen=True)
class _Group:
    """One prompt with its samples, their rewards and costs [G], which of them are known, and why others are not."""

    item: Item
    samples: list[Sample]
    rewards: Tensor
    scored: Tensor
    costs: Tensor | None
    errors: list[str | None]


def _refuse_silence(groups: Sequence[_Group]) -> None:
    """Raise TrainingError where rewards failed and not one sample has any: nothing can be learnt from that."""
    errors = [e for g in groups for e in g.errors if e is not None]
    if errors and not any(bool(g.scored.any()) for g in groups):
        raise TrainingError(
            "the reward failed, and no answer of this round has one",
            expected="a finite number for an answer, None where there is nothing to score",
            got=f"{len(errors)} errors, the first: {errors[0]}",
        )


def _score(items: list[Item], samples: list[Sample], reward: Reward, cost: Reward | None, n: int) -> list[_Group]:
    """Each group with its rewards, which of them are known, and costs."""
    values = checked(reward, samples)
    costs: list[Value] = [0.0] * len(samples) if cost is None else checked(cost, samples)
    groups = []
    for b, item in enumerate(items):
        part = slice(b * n, (b + 1) * n)
        pairs = list(zip(values[part], costs[part], strict=True))
        groups.append(
            _Group(
                item,
                samples[part],
                rewards=_tensor(values[part]),
                scored=torch.tensor([isinstance(v, float) and isinstance(c, float) for v, c in pairs]),
                costs=None if cost is None else _tensor(costs[part]),
                errors=[next((x.error for x in pair if isinstance(x, Errored)), None) for pair in pairs],
            )
        )
    return groups


def _tensor(values: Sequence[Value]) -> Tensor:
    """Values where they are known; what stands elsewhere is not read."""
    return torch.tensor([v if isinstance(v, float) else 0.0 for v in values])


def padded(parts: Sequence[Tensor]) -> Tensor:
    """Vectors of different lengths as rows [N, T], padded with 0."""
    return pad_sequence(list(parts), batch_first=True)


def mask_of(items: Sequence[Item]) -> Tensor:
    """Which tokens of the items' answers there are, [N, T]."""
    return padded([torch.ones(len(a), dtype=torch.bool) for item in items for a in item.answers])
