"""Greedy coordinate gradient search (Zou et al. 2023, algorithm 1) as a stream of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from fivefold.errors import ModelError
from fivefold.redteam._gcg_objective import Losses, Objective, Point
from fivefold.redteam._gcg_prompt import Ids, SuffixPrompt, banned

TRIES = 8
"""How often candidates are drawn again when none of them survives tokenisation."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The suffix after a step (step 0: the initial one), its loss and what led to it.

    `loss` = `goal_loss` + `penalty`, in nats a token and the penalties' units; not finite when the search broke down.
    `probes` are the penalised probes' logits. `matched`: the goal is what greedy decoding says.
    """

    step: int
    suffix: Ids
    loss: float
    goal_loss: float
    penalty: float
    probes: tuple[float, ...]
    matched: bool
    candidates: int = 0

    @property
    def finite(self) -> bool:
        """Whether the loss is a number."""
        return math.isfinite(self.loss)


class Search:
    """One search. Candidates come from `generator` alone, so equal seeds give equal searches.

    A step: the gradient at the current suffix names the `topk` most promising tokens for each place; `width`
    candidates replace `n_replace` random places by random ones of those; the best candidate becomes the current suffix,
    also when it is worse (as in the paper).
    """

    def __init__(
        self,
        prompt: SuffixPrompt,
        objective: Objective,
        generator: torch.Generator,
        *,
        width: int,
        topk: int,
        n_replace: int,
        allow_non_ascii: bool = False,
    ) -> None:
        self.prompt, self.objective, self.generator = prompt, objective, generator
        self.width, self.n_replace = width, n_replace
        size = len(objective.table)
        self.banned = torch.tensor(banned(prompt.model.tokenizer, size, allow_non_ascii), dtype=torch.long)
        self.topk = min(topk, size - len(self.banned))

    def run(self, steps: int) -> Iterator[Found]:
        """The initial suffix, then one suffix a step. Ends early after a step whose loss is not finite."""
        point = self.objective.at(self.prompt.start)
        found = _found(0, point.suffix, point.losses, 0, 0)
        yield found
        for step in range(1, steps + 1):
            if not found.finite:
                return
            found = self._step(step, point)
            yield found
            if step < steps and found.finite:
                point = self.objective.at(found.suffix)

    def _step(self, step: int, point: Point) -> Found:
        if not bool(torch.isfinite(point.gradient).all()):
            return replace(_found(step, point.suffix, point.losses, 0, 0), loss=math.nan)
        for _ in range(TRIES):
            candidates = self.propose(point)
            if not candidates:
                continue
            losses = self.objective.losses(candidates, near=point)
            if not bool(torch.isfinite(losses.total).all()):
                return _found(step, point.suffix, losses, int(torch.argmin(losses.total)), len(candidates))
            for i in torch.argsort(losses.total, stable=True).tolist():
                if self.prompt.consistent(candidates[i]):
                    return _found(step, candidates[i], losses, i, len(candidates))
        raise ModelError(
            f"no candidate suffix survives decoding and encoding, in {TRIES} draws of {self.width}",
            next_step="choose another `init`, or a greater `width`",
        )

    def propose(self, point: Point) -> list[Ids]:
        """Candidates around `point`, without duplicates and without those that another tokenisation would change."""
        drawn = self.draw(point)
        return self.prompt.surviving(list(dict.fromkeys(map(tuple, drawn.tolist()))))

    def draw(self, point: Point) -> torch.Tensor:
        """`width` suffixes [width, S] with `n_replace` places changed."""
        gradient = point.gradient.float().cpu().index_fill(1, self.banned, math.inf)
        best = (-gradient).topk(self.topk, dim=1).indices
        current = torch.tensor(point.suffix)
        places = torch.rand((self.width, len(current)), generator=self.generator).argsort()[:, : self.n_replace]
        picks = torch.randint(0, self.topk, (*places.shape, 1), generator=self.generator)
        tokens = torch.gather(best[places], 2, picks).squeeze(2)
        return current.repeat(self.width, 1).scatter_(1, places, tokens)


def _found(step: int, suffix: Ids, losses: Losses, i: int, candidates: int) -> Found:
    return Found(
        step=step,
        suffix=suffix,
        loss=float(losses.total[i]),
        goal_loss=float(losses.goal[i]),
        penalty=float(losses.penalty[i]),
        probes=tuple(float(z) for z in losses.probes[i]),
        matched=bool(losses.matched[i]),
        candidates=candidates,
    )
