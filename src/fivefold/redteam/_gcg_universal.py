"""One suffix for many behaviours (Zou et al. 2023, algorithm 2): prompts and objectives that share their suffix.

The first behaviour is optimised alone; whenever the suffix matches every active behaviour's target, the next one joins. Losses
are means over the active behaviours; gradients are normalised at each place before they are added, as in the authors'
code, so that no behaviour outweighs the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fivefold.errors import UsageError
from fivefold.redteam._gcg_objective import Losses, Near, Objective, Point
from fivefold.redteam._gcg_prompt import Ids, SuffixPrompt
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Message


class ManyPrompts:
    """Prompts with one suffix; a suffix is good when it is good in all of them."""

    def __init__(self, prompts: Sequence[SuffixPrompt]) -> None:
        self.prompts = tuple(prompts)
        if len({p.start for p in prompts}) != 1:
            raise UsageError(
                "the initial suffix is tokenised differently after different requests",
                expected="the same tokens after each",
                next_step="choose another `init`, such as '!'",
            )

    @property
    def model(self) -> WhiteBox:
        """The model that is searched on."""
        return self.prompts[0].model

    @property
    def start(self) -> Ids:
        """Tokens of the initial suffix."""
        return self.prompts[0].start

    def text(self, suffix: Sequence[int]) -> str:
        """What is appended to a request."""
        return self.prompts[0].text(suffix)

    def messages(self, suffix: Sequence[int]) -> tuple[Message, ...]:
        """The first conversation with `suffix`."""
        return self.prompts[0].messages(suffix)

    def consistent(self, suffix: Sequence[int]) -> bool:
        """Whether every conversation, sent as text, is encoded as these ids."""
        return all(p.consistent(suffix) for p in self.prompts)

    def surviving(self, candidates: Sequence[Ids]) -> list[Ids]:
        """Candidates that survive tokenisation after the first request; the others are left to `consistent`."""
        return self.prompts[0].surviving(candidates)


@dataclass(frozen=True, eq=False)
class ManyPoint(Point):
    """The point of each active behaviour beside their sum."""

    points: tuple[Point, ...] = ()


@dataclass(frozen=True, eq=False)
class ManyNear(Near):
    """What is shared at a suffix, for each active behaviour."""

    points: tuple[Near, ...] = ()


class ManyObjectives:
    """The mean loss of the active behaviours. `active` grows as they are matched."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives, self.active = tuple(objectives), 1

    @property
    def table(self) -> Tensor:
        """What the embedding gives for every token."""
        return self.objectives[0].table

    @property
    def tokens(self) -> int:
        """Tokens that have gone through the model."""
        return sum(o.tokens for o in self.objectives)

    def at(self, suffix: Ids) -> ManyPoint:
        """Losses and gradient; a suffix that matches every active target brings the next behaviour in."""
        points = [o.at(suffix) for o in self.objectives[: self.active]]
        if self.active < len(self.objectives) and all(bool(p.losses.matched.all()) for p in points):
            points.append(self.objectives[self.active].at(suffix))
            self.active += 1
        gradient = torch.stack([_unit(p.gradient) for p in points]).sum(dim=0)
        return ManyPoint(suffix, points[0].stem, _mean([p.losses for p in points]), gradient, tuple(points))

    def near(self, suffix: Ids) -> ManyNear:
        """What suffixes near `suffix` share with it, for each active behaviour."""
        points = tuple(o.near(suffix) for o in self.objectives[: self.active])
        return ManyNear(suffix, points[0].stem, points)

    def losses(self, candidates: Sequence[Ids], near: Near | None = None) -> Losses:
        """Mean losses of `candidates` over the active behaviours; `matched` when all are."""
        points: Sequence[Near | None] = near.points if isinstance(near, (ManyPoint, ManyNear)) else [None] * self.active
        active = zip(self.objectives, points, strict=False)
        return _mean([o.losses(candidates, near=p) for o, p in active])


def _unit(gradient: Tensor) -> Tensor:
    size: Tensor = gradient.norm(dim=-1, keepdim=True)
    return gradient / size.clamp_min(1e-12)


def _mean(losses: Sequence[Losses]) -> Losses:
    return Losses(
        total=torch.stack([x.total for x in losses]).mean(dim=0),
        goal=torch.stack([x.goal for x in losses]).mean(dim=0),
        penalty=torch.stack([x.penalty for x in losses]).mean(dim=0),
        probes=torch.stack([x.probes for x in losses]).mean(dim=0),
        matched=torch.stack([x.matched for x in losses]).all(dim=0),
    )
