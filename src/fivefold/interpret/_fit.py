"""What the probe methods share: fit on the train split, set thresholds on dev and out-of-fold prompts, judge on
test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fivefold.errors import UsageError
from fivefold.interpret._linear import Array, Fit, Linear, Mask
from fivefold.interpret.artifacts import Position, ProbeArtifact, Separation, Threshold
from fivefold.interpret.data import Prompts, collect
from fivefold.runtime.protocol import WhiteBox
from fivefold.stats.ranking import clustered_auroc, threshold_at_fpr
from fivefold.types import Case

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Read:
    """Where a probe reads, and how strict its threshold is."""

    layer: int | None = None
    """Decoder layer, 0-based; None takes the one at 0.6 of the depth."""
    position: Position = "last"
    """Token that is read: the last one before the assistant speaks, the mean over all but the first, or an index."""
    languages: tuple[str, ...] | None = None
    """Languages of the prompts to learn from; None takes all."""
    target_fpr: float = 0.05
    """Share of benign prompts that may reach the threshold."""
    framed_fpr: float = 0.15
    """The same for benign prompts in a frame, where there are any; the stricter of both thresholds holds."""

    def __post_init__(self) -> None:
        for name in ("target_fpr", "framed_fpr"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(
                    f"{name} is not a share", expected="between 0 and 1, say 0.05", got=getattr(self, name)
                )


def held_out_scores(x: NDArray[np.float32], prompts: Prompts, fit: Fit, folds: int = FOLDS) -> tuple[Linear, Array]:
    """The read-out fitted on the train split, and a score for every row [N] by a read-out that has not seen its
    behaviour: out-of-fold for train rows, the final one for dev and test."""
    train, fold = prompts.of_split("train"), prompts.folds(folds)
    final = fit(x[train].astype(np.float64), prompts.positive[train])
    scores = final.score(x)
    for k in np.unique(fold[train]):
        seen = train & (fold != k)
        if prompts.positive[seen].any() and not prompts.positive[seen].all():
            scores[train & (fold == k)] = fit(x[seen].astype(np.float64), prompts.positive[seen]).score(
                x[train & (fold == k)]
            )
    return final, scores


def separation(scores: Array, prompts: Prompts, rows: Mask) -> Separation | None:
    """AUROC over `rows` with its clustered interval; None when one kind is missing."""
    labels = prompts.positive[rows]
    found = clustered_auroc(scores[rows], labels, prompts.clusters[rows].tolist())
    if found.estimate is None or found.low is None or found.high is None:
        return None
    return Separation(
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        level=found.level,
        n_positive=int(labels.sum()),
        n_negative=int((~labels).sum()),
    )


def separations(scores: Array, prompts: Prompts, split: str) -> dict[str, Separation]:
    """AUROC on one split per language and over `all`; languages with one kind only are left out."""
    rows = prompts.of_split(split)
    found = {k: separation(scores, prompts, rows & prompts.of_language(k)) for k in prompts.languages}
    found["all"] = separation(scores, prompts, rows)
    return {k: s for k, s in found.items() if s is not None}


def thresholds(scores: Array, prompts: Prompts, read: Read, framed: Framed | None = None) -> dict[str, Threshold]:
    """Per language: the lowest score that at most `target_fpr` of the benign dev and out-of-fold train prompts reach,
    and at most `framed_fpr` of their framed variants. `fpr` and `n` tell of the bare prompts."""
    found = {}
    for language in prompts.languages:
        benign = _seen_benign(scores, prompts, language)
        in_frame = _seen_benign(framed.scores, framed.prompts, language) if framed else np.zeros(0)
        if benign.size:
            value = threshold_at_fpr(benign, read.target_fpr)
            value = max(value, threshold_at_fpr(in_frame, read.framed_fpr)) if in_frame.size else value
            found[language] = Threshold(value=value, fpr=float((benign >= value).mean()), n=int(benign.size))
    return found


def _seen_benign(scores: Array, prompts: Prompts, language: str) -> Array:
    return scores[~prompts.of_split("test") & ~prompts.positive & prompts.of_language(language)]


@dataclass(frozen=True, kw_only=True)
class Framed:
    """Variants of the prompts (in a role-play frame, say) with their held-out scores: they too may set a threshold."""

    prompts: Prompts
    scores: Array


def artifact_of(
    linear: Linear,
    scores: Array,
    prompts: Prompts,
    *,
    model: WhiteBox,
    layer: int,
    read: Read,
    concept: str,
    method: str,
    framed: Framed | None = None,
) -> ProbeArtifact:
    """The read-out as an artifact with its thresholds, its AUROCs on test and its held-out scores."""
    test = prompts.of_split("test")
    return ProbeArtifact(
        concept=concept,
        method=method,
        layer=layer,
        position=read.position,
        weight=linear.weight.astype(np.float32),
        bias=linear.bias,
        mean=linear.mean.astype(np.float32),
        scale=linear.scale.astype(np.float32),
        model=model.fingerprint,
        model_name=model.name,
        dataset=prompts.digest,
        languages=prompts.languages,
        target_fpr=read.target_fpr,
        thresholds=thresholds(scores, prompts, read, framed),
        auroc=separations(scores, prompts, "test"),
        positive=_by_language(scores, prompts, test & prompts.positive),
        negative=_by_language(scores, prompts, test & ~prompts.positive),
    )


def _by_language(scores: Array, prompts: Prompts, rows: Mask) -> Mapping[str, NDArray[np.float32]]:
    found = {k: scores[rows & prompts.of_language(k)].astype(np.float32) for k in prompts.languages}
    return {k: v for k, v in found.items() if v.size}


def train_one(
    model: WhiteBox,
    positive: Sequence[Case],
    negative: Sequence[Case],
    *,
    read: Read,
    concept: str,
    method: str,
    fit: Fit,
) -> ProbeArtifact:
    """Collect activations at one place, fit, and judge."""
    prompts = Prompts.of(positive, negative, read.languages)
    prompts.check("train", "dev", "test")
    layer = round(0.6 * model.n_layers) if read.layer is None else read.layer
    layer = min(layer, model.n_layers - 1) if read.layer is None else layer
    x = collect(model, prompts.cases, layers=[layer], position=read.position, for_=f"the {method} method")[:, 0]
    linear, scores = held_out_scores(x, prompts, fit)
    return artifact_of(linear, scores, prompts, model=model, layer=layer, read=read, concept=concept, method=method)
