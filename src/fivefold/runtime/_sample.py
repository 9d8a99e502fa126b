"""The next token of each request: the most likely one, or one drawn with the request's own random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

NUCLEUS = 1024
"""Candidates looked at first for top-p; the whole vocabulary is sorted only if they do not hold the mass."""


SPAN = 128
"""Tokens of which the most likely one is found together."""


class Draw(Protocol):
    """What sampling needs to know of a request."""

    temperature: float
    top_p: float
    tokens: list[int]
    uniforms: Tensor | None


def pick(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Next token of each request from float32 logits [n, V]."""
    chosen: list[int] = likeliest(logits).tolist()
    for row, draw in enumerate(draws):
        if draw.temperature > 0 and draw.uniforms is not None:
            u = float(draw.uniforms[len(draw.tokens)])
            chosen[row] = sample(logits[row], draw.temperature, draw.top_p, u)
    return chosen


def likeliest(logits: Tensor) -> Tensor:
    """The first of the most likely tokens of each row of [n, V]: torch's argmax in two steps; on a CPU the first one,
    the maximum of each span, takes far less time than the place of the maximum of all."""
    n, vocab = logits.shape
    if vocab % SPAN:
        return logits.argmax(dim=1)
    spans = logits.view(n, vocab // SPAN, SPAN)
    first = spans.amax(dim=2).argmax(dim=1)
    return first * SPAN + spans[torch.arange(n, device=logits.device), first].argmax(dim=1)


def sample(logits: Tensor, temperature: float, top_p: float, u: float) -> int:
    """Token at quantile `u` of softmax(logits / temperature) within the top-p nucleus (Holtzman et al. 2019)."""
    probs = torch.softmax(logits.double() / temperature, dim=0)
    if top_p < 1:
        ids, mass = _nucleus(probs, top_p)
        return int(ids[_quantile(mass, u)])
    return _quantile(probs, u)


def _quantile(mass: Tensor, u: float) -> int:
    """First index at which the cumulative sum of `mass` exceeds u times its total."""
    total = torch.cumsum(mass, dim=0)
    at = int(torch.searchsorted(total, u * float(total[-1]), right=True))
    return min(at, len(mass) - 1)


def _nucleus(probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Smallest set of most likely tokens with probability at least `top_p`: their ids and probabilities."""
    mass, ids = torch.topk(probs, min(NUCLEUS, len(probs)))
    if float(mass.sum()) < top_p:
        mass, ids = torch.sort(probs, descending=True)
    size = int(torch.searchsorted(torch.cumsum(mass, dim=0), top_p)) + 1
    return ids[:size], mass[:size]
