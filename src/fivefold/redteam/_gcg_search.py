"""Greedy coordinate gradient search (Zou et al. 2023, algorithm 1) as a stream of steps.

Two named improvements, off by default: momentum over gradients (Zhang & Wei 2024, arXiv 2405.01229) and probe sampling
(Zhao et al. 2024, arXiv 2403.01251). With both off the search is the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from fivefold.errors import ModelError
from fivefold.redteam._gcg_objective import Losses, Objective, Point, joined
from fivefold.redteam._gcg_prompt import Ids, SuffixPrompt, banned
from fivefold.redteam._gcg_universal import ManyObjectives, ManyPrompts

PROBE_SHARE = 16
"""Candidates for each one in the probe set of probe sampling (the paper's B / 16)."""
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
    evaluated: int = 0
    """Candidates that went through the attacked model; fewer than `candidates` with probe sampling."""
    agreement: float | None = None
    """Probe sampling: how far the draft ordered the probe set as the attacked model did, in [0, 1]; 0.5 is chance, where the
    draft only thins the candidates out."""

    @property
    def finite(self) -> bool:
        """Whether the loss is a number."""
        return math.isfinite(self.loss)


class Search:
    """One search. Candidates come from `generator` alone, so equal seeds give equal searches.

    A step: the gradient at the current suffix names the `topk` most promising tokens for each place; `width`
    candidates replace `n_replace` random places by random ones of those; the best candidate becomes the current suffix,
    also when it is worse (as in the paper).

    `momentum` m in [0, 1): candidates follow m · (gradients before) + (1 - m) · gradient. `draft`: the objective on a
    small model of the same vocabulary; it orders all candidates, a random probe set measures how far the attacked model
    agrees (Spearman's rank correlation, as a = (1 + rho) / 2), and that model sees only the best (1 - a) / `reduction`
    of them beside the probe set.
    """

    def __init__(
        self,
        prompt: SuffixPrompt | ManyPrompts,
        objective: Objective | ManyObjectives,
        generator: torch.Generator,
        *,
        width: int,
        topk: int,
        n_replace: int,
        allow_non_ascii: bool = False,
        momentum: float = 0.0,
        draft: Objective | ManyObjectives | None = None,
        reduction: float = 8.0,
    ) -> None:
        self.prompt, self.objective, self.generator = prompt, objective, generator
        self.momentum, self.draft, self.reduction = momentum, draft, reduction
        self._agreement: float | None = None
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
                point = self._smoothed(self.objective.at(found.suffix), point)

    @property
    def tokens(self) -> int:
        """Tokens that have gone through the attacked model and through the draft."""
        return self.objective.tokens + (self.draft.tokens if self.draft else 0)

    def _smoothed(self, point: Point, before: Point) -> Point:
        if not self.momentum:
            return point
        return replace(point, gradient=self.momentum * before.gradient + (1 - self.momentum) * point.gradient)

    def _step(self, step: int, point: Point) -> Found:
        if not bool(torch.isfinite(point.gradient).all()):
            return replace(_found(step, point.suffix, point.losses, 0, 0), loss=math.nan)
        for _ in range(TRIES):
            candidates = self.propose(point)
            if not candidates:
                continue
            for which, losses in self._evaluated(candidates, point):
                drawn = {"candidates": len(candidates), "evaluated": len(losses.total)}
                if not bool(torch.isfinite(losses.total).all()):
                    return _found(step, point.suffix, losses, int(torch.argmin(losses.total)), **drawn)
                for i in torch.argsort(losses.total, stable=True).tolist():
                    if self.prompt.consistent(which[i]):
                        return replace(_found(step, which[i], losses, i, **drawn), agreement=self._agreement)
        raise ModelError(
            f"no candidate suffix survives decoding and encoding, in {TRIES} draws of {self.width}",
            next_step="choose another `init`, or a greater `width`",
        )

    def _evaluated(self, candidates: list[Ids], point: Point) -> Iterator[tuple[list[Ids], Losses]]:
        """Candidates with their losses: all of them; with a draft the promising ones, then, when none of those can be
        sent, all."""
        if self.draft is not None and len(candidates) >= 2 * PROBE_SHARE:
            yield self._probed(candidates, point)
        yield candidates, self.objective.losses(candidates, near=point)

    def _probed(self, candidates: list[Ids], point: Point) -> tuple[list[Ids], Losses]:
        """The probe set, and the draft's best, as many as its agreement on the probe set leaves to be asked."""
        assert self.draft is not None
        if isinstance(self.draft, ManyObjectives) and isinstance(self.objective, ManyObjectives):
            self.draft.active = self.objective.active
        order = self.draft.losses(candidates, near=self.draft.near(point.suffix)).total.float().cpu()
        drawn = torch.randperm(len(candidates), generator=self.generator)[: max(2, len(candidates) // PROBE_SHARE)]
        probe = drawn.tolist()
        seen = self.objective.losses([candidates[i] for i in probe], near=point)
        self._agreement = (1 + rank_correlation(order[drawn], seen.total.float().cpu())) / 2
        size = max(1, round((1 - self._agreement) * len(candidates) / self.reduction))
        best = [i for i in torch.argsort(order, stable=True)[:size].tolist() if i not in probe]
        more = [self.objective.losses([candidates[i] for i in best], near=point)] if best else []
        return [candidates[i] for i in (*probe, *best)], joined([seen, *more])

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


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spearman's rho of two vectors of equal length without ties to speak of; 0 when one of them is constant."""
    ranks = [x.argsort().argsort().double() for x in (a, b)]
    x, y = (r - r.mean() for r in ranks)
    size = float(x.norm() * y.norm())
    constant = bool((a == a[0]).all()) or bool((b == b[0]).all())
    return 0.0 if constant else float(x @ y) / size


def _found(step: int, suffix: Ids, losses: Losses, i: int, candidates: int, evaluated: int = 0) -> Found:
    return Found(
        step=step,
        suffix=suffix,
        loss=float(losses.total[i]),
        goal_loss=float(losses.goal[i]),
        penalty=float(losses.penalty[i]),
        probes=tuple(float(z) for z in losses.probes[i]),
        matched=bool(losses.matched[i]),
        candidates=candidates,
        evaluated=evaluated,
    )
