"""Train the text guard: TF-IDF of n-grams and concepts with logistic regression, thresholds per language on held-out
texts.

Everything is decided on the train and dev splits: weights on train, thresholds on dev and out-of-fold train texts, so
that no text sets a threshold by a model that has seen its behaviour. numpy and scipy; a few seconds for a thousand
texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, hstack

from fivefold.errors import DataError, TrainingError, UsageError
from fivefold.guard._files import Threshold
from fivefold.guard.augment import FRAMED, framed
from fivefold.guard.features import Features, features, lexicon
from fivefold.guard.requests import training_requests
from fivefold.guard.text_model import TextModel, tfidf
from fivefold.stats.ranking import threshold_at_fpr
from fivefold.types import Case, digest

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class TextTraining:
    """How the text guard is trained."""

    penalty: float = 3e-5
    """L2 penalty on the weights, per text: loss = sum of log-losses + penalty · texts / 2 · |weights|²."""
    concept_scale: float = 0.2
    """Value of a concept that is present, beside n-grams of unit length: how far concepts may carry the decision."""
    min_texts: int = 2
    """An n-gram must occur in this many training texts."""
    copies: int = 1
    """Framed variants of every text."""
    own_requests: bool = True
    """Also learn from the guard's own training requests."""
    folds: int = 5
    """Folds, by behaviour, of the out-of-fold scores that thresholds are set on."""
    target_fpr: float = 0.05
    """Share of benign texts of each language that may reach the threshold."""
    framed_fpr: float = 0.15
    """The same for benign texts in a frame; the stricter of both thresholds holds."""

    def __post_init__(self) -> None:
        for name in ("target_fpr", "framed_fpr"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(
                    f"{name} is not a share", expected="between 0 and 1, say 0.05", got=getattr(self, name)
                )


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A text model, and the score of every case by a model that had not seen its behaviour, by case id."""

    model: TextModel
    scores: dict[str, float]


def train_text(
    harmful: Sequence[Case],
    benign: Sequence[Case],
    config: TextTraining | None = None,
    *,
    everyday: Sequence[Case] = (),
) -> Trained:
    """Train on the train split of both kinds, framed variants included; `everyday` are ordinary benign texts that have
    no look-alike twin. Test cases may be among them: they are scored, and nothing else."""
    config = config or TextTraining()
    own = training_requests() if config.own_requests else ((), ())
    table = _Table([*harmful, *own[0]], [*benign, *own[1], *everyday], config)
    model = table.fit(table.train)
    scores = table.score(model, np.ones(len(table.cases), bool))
    for k in range(config.folds):
        fold = table.train & (table.fold == k)
        if fold.any():
            scores[fold] = table.score(table.fit(table.train & (table.fold != k)), fold)
    judged = {c.behaviour or c.id for c in benign}
    rows = [not h and (c.behaviour or c.id) in judged for c, h in zip(table.cases, table.harmful, strict=True)]
    look_alikes = [c for c, r in zip(table.cases, rows, strict=True) if r]
    return Trained(
        model=TextModel(
            **vars(model),
            languages=table.languages,
            target_fpr=config.target_fpr,
            dataset=table.digest,
            thresholds=thresholds(look_alikes, scores[rows], config.target_fpr, config.framed_fpr),
        ),
        scores={c.id: float(s) for c, s in zip(table.cases, scores, strict=True)},
    )


def thresholds(benign: Sequence[Case], scores: Array, target_fpr: float, framed_fpr: float) -> dict[str, Threshold]:
    """Per language: the lowest score that at most `target_fpr` of the benign train and dev texts and at most
    `framed_fpr` of those in a frame reach. `fpr` and `n` tell of the texts without a frame."""
    found = {}
    for language in dict.fromkeys(c.language for c in benign):
        seen = [c.language == language and c.split != "test" for c in benign]
        bare, in_frame = (
            scores[[s and (FRAMED in c.tags) == tagged for s, c in zip(seen, benign, strict=True)]]
            for tagged in (False, True)
        )
        if bare.size:
            value = threshold_at_fpr(bare, target_fpr)
            value = max(value, threshold_at_fpr(in_frame, framed_fpr)) if in_frame.size else value
            found[language] = Threshold(value=value, fpr=float((bare >= value).mean()), n=int(bare.size))
    return found


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    keys: NDArray[np.uint32]
    idf: NDArray[np.float32]
    weight: NDArray[np.float32]
    concepts: NDArray[np.float32]
    bias: float


class _Table:
    """Cases, labels and features, row by row."""

    def __init__(self, harmful: Sequence[Case], benign: Sequence[Case], config: TextTraining) -> None:
        both = [(c, True) for c in (*harmful, *framed(harmful, copies=config.copies))]
        both += [(c, False) for c in (*benign, *framed(benign, copies=config.copies))]
        self.cases = [c for c, _ in both]
        self.harmful = np.array([h for _, h in both])
        self.train = np.array([c.split == "train" for c in self.cases])
        self.fold = np.array([int(digest(c.behaviour or c.id)[:8], 16) % config.folds for c in self.cases])
        self.languages = tuple(dict.fromkeys(c.language for c in self.cases))
        self.config = config
        self.digest = digest([[c.id, c.prompt, bool(h)] for c, h in both])
        labels = self.harmful[self.train]
        if labels.all() or not labels.any():
            raise DataError("a text guard needs harmful and benign texts in the train split", got="one kind only")
        self.features = [features(c.prompt) for c in self.cases]

    def fit(self, rows: Mask) -> _Fitted:
        chosen = [self.features[i] for i in np.flatnonzero(rows)]
        keys, texts = np.unique(np.concatenate([f.hashes for f in chosen]), return_counts=True)
        keys, texts = keys[texts >= self.config.min_texts], texts[texts >= self.config.min_texts]
        idf = (np.log((1 + len(chosen)) / (1 + texts)) + 1).astype(np.float32)
        scale = self.config.concept_scale
        x = hstack([_ngrams(chosen, keys, idf), scale * _concepts(chosen)]).tocsr()
        theta = _logistic(x, self.harmful[rows], self.config.penalty * len(chosen))
        return _Fitted(
            keys=keys,
            idf=idf,
            weight=theta[: len(keys)].astype(np.float32),
            concepts=(scale * theta[len(keys) : -1]).astype(np.float32),
            bias=float(theta[-1]),
        )

    def score(self, model: _Fitted, rows: Mask) -> Array:
        chosen = [self.features[i] for i in np.flatnonzero(rows)]
        of_ngrams = _ngrams(chosen, model.keys, model.idf) @ model.weight.astype(np.float64)
        return np.asarray(of_ngrams + _concepts(chosen) @ model.concepts.astype(np.float64) + model.bias)


def _ngrams(texts: Sequence[Features], keys: NDArray[np.uint32], idf: NDArray[np.float32]) -> csr_matrix:
    rows = [tfidf(found, keys, idf) for found in texts]
    ends = np.cumsum([0, *(len(at) for at, _ in rows)])
    columns, values = (np.concatenate([r[i] for r in rows]) for i in (0, 1))
    return csr_matrix((values, columns, ends), shape=(len(texts), len(keys)))


def _concepts(texts: Sequence[Features]) -> csr_matrix:
    ends = np.cumsum([0, *(len(f.concepts) for f in texts)])
    columns = np.array([i for f in texts for i in f.concepts], dtype=np.intp)
    return csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(texts), len(lexicon())))


def _logistic(x: csr_matrix, harmful: Mask, strength: float) -> Array:
    """[weights…, bias] that minimise the summed log-loss plus strength / 2 |weights|² (L-BFGS); the bias is free."""
    sign = np.where(harmful, 1.0, -1.0)
    options = {"maxiter": 200, "ftol": 1e-7}
    result = minimize(_loss(x, sign, strength), np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options=options)
    if not np.isfinite(result.fun):
        raise TrainingError("the text guard's training has diverged", next_step="raise the penalty")
    return np.asarray(result.x, dtype=np.float64)


def _loss(x: csr_matrix, sign: Array, strength: float) -> Callable[[Array], tuple[float, Array]]:
    back = x.T.tocsr()

    def loss(theta: Array) -> tuple[float, Array]:
        weight, bias = theta[:-1], theta[-1]
        margin = sign * (x @ weight + bias)
        pull = -sign * 0.5 * (1 - np.tanh(0.5 * margin))
        value = np.logaddexp(0, -margin).sum() + 0.5 * strength * weight @ weight
        return float(value), np.append(back @ pull + strength * weight, pull.sum())

    return loss
