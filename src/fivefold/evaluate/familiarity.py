"""Contamination, seen from the model: is a text more familiar to it than texts of the same kind should be?

Min-K%++ looks at each token against everything the model could have said there: z = (log p(token) - mean) / sd, mean
and sd over the vocabulary under the model's own distribution; the score of a text is the mean over its K% lowest z.
Trained-on texts sit near a mode of the likelihood, so their lowest tokens are less low.

Alone the score says nothing: it is compared with texts that cannot have been trained on (twins of the cases, or newer
ones). A higher score than one's own twin, more often than chance allows, is a sign, not a proof: a twin that reads less
naturally than its original is less familiar too.

Source: Zhang et al., "Min-K%++", arXiv 2404.02936 (2024), eq. 3-4; K = 20 as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fivefold.errors import ModelError, UsageError
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.stats import Interval, auroc, wilson

if TYPE_CHECKING:
    import torch

SHARE = 0.2
MAX_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """Originals against references, pair by pair: the share of pairs whose original is more familiar (0.5 is chance),
    and the area under the ROC curve that separates the two groups by their scores."""

    more_familiar: Interval
    auroc: Interval
    scores: tuple[float, ...]
    reference_scores: tuple[float, ...]


def familiarity(
    model: WhiteBox, originals: Sequence[str], references: Sequence[str], *, share: float = SHARE, level: float = 0.95
) -> Familiarity:
    """Min-K%++ of `originals` against `references`, which are paired by position. UsageError for unequal lengths."""
    if len(originals) != len(references) or not originals:
        raise UsageError("originals and references come in pairs", got=f"{len(originals)} and {len(references)}")
    found = min_k_plus_plus(model, [*originals, *references], share=share)
    ours, theirs = found[: len(originals)], found[len(originals) :]
    wins = sum(float(a > b) + 0.5 * float(a == b) for a, b in zip(ours, theirs, strict=True))
    return Familiarity(
        more_familiar=wilson(wins, len(ours), level),
        auroc=auroc(found, [1] * len(ours) + [0] * len(theirs)),
        scores=tuple(ours),
        reference_scores=tuple(theirs),
    )


def min_k_plus_plus(model: WhiteBox, texts: Sequence[str], *, share: float = SHARE) -> list[float]:
    """The score of each text, higher is more familiar. Reads the first 1,024 tokens. ModelError for a text of fewer
    than two tokens; CapabilityError for a model whose logits cannot be read."""
    require(model, Capability.ACTIVATIONS, for_="Min-K%++")
    if not 0 < share <= 1:
        raise UsageError("not a share of tokens", expected="above 0, at most 1", got=share)
    return [_mean_of_lowest(_z(model, text), share) for text in texts]


def _z(model: WhiteBox, text: str) -> torch.Tensor:
    """z of every token after the first: float32 [T - 1]."""
    import torch

    ids = model.encode(text)[:MAX_TOKENS]
    if len(ids) < 2:
        raise ModelError("a text of one token has no likelihood", got=repr(text)[:80])
    device = next(model.module.parameters()).device
    with torch.no_grad():
        logits = model.module(torch.tensor([ids], device=device)).logits[0, :-1].float()
    log_p = torch.log_softmax(logits, dim=-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    variance = (p * log_p.square()).sum(-1) - mean.square()
    chosen = log_p.gather(1, torch.tensor(ids[1:], device=device)[:, None])[:, 0]
    return (chosen - mean) / variance.clamp_min(1e-12).sqrt()


def _mean_of_lowest(z: torch.Tensor, share: float) -> float:
    count = max(1, int(len(z) * share))
    return float(z.sort().values[:count].mean())
