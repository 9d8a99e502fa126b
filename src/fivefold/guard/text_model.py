"""A text classifier as a file: TF-IDF weighted n-grams and concepts with logistic weights, read and run with numpy
alone.

Format `fivefold-text/1`, safetensors:

    metadata["fivefold"]   one JSON object: format, concept, dataset, languages, target_fpr, thresholds {language:
    {value, fpr,
                           n}}, lexicon (digest of the concept lexicon that it was trained with), bias
    keys                   uint32 [V] hashes of the n-grams, ascending
    idf, weight            float32 [V]
    concepts               float32 [K] weight of each concept, in the lexicon's order

score = bias + sum over known n-grams of weight · tfidf + sum of the weights of the concepts present, where tfidf =
(1 + ln count) · idf, scaled to unit length over the known n-grams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fivefold.errors import ModelFileError
from fivefold.guard import _files
from fivefold.guard._files import Threshold
from fivefold.guard.features import Features, features, lexicon, lexicon_digest, windows
from fivefold.types import digest_bytes

FORMAT = "fivefold-text/1"


@dataclass(frozen=True, kw_only=True, eq=False)
class TextModel:
    """A trained text classifier; score = log-odds that a text is harmful. Equal when the bytes are."""

    keys: NDArray[np.uint32]
    idf: NDArray[np.float32]
    weight: NDArray[np.float32]
    concepts: NDArray[np.float32]
    bias: float
    languages: tuple[str, ...]
    target_fpr: float
    dataset: str
    concept: str = "harmfulness"
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextModel) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def score(self, text: str) -> float:
        """Log-odds of a text; of a long one the highest among its windows."""
        return max(self._score(features(window)) for window in windows(text))

    def _score(self, found: Features) -> float:
        at, values = tfidf(found, self.keys, self.idf)
        concepts = self.concepts[list(found.concepts)].astype(np.float64).sum()
        return self.bias + float(values @ self.weight[at].astype(np.float64) + concepts)

    @property
    def digest(self) -> str:
        """SHA-256 hex of the file's bytes."""
        return digest_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The file's content; the same model always gives the same bytes."""
        header = {
            "format": FORMAT,
            "concept": self.concept,
            "dataset": self.dataset,
            "languages": list(self.languages),
            "target_fpr": self.target_fpr,
            "thresholds": {k: dict(vars(t)) for k, t in self.thresholds.items()},
            "lexicon": lexicon_digest(),
            "bias": self.bias,
        }
        tensors = {"keys": self.keys, "idf": self.idf, "weight": self.weight, "concepts": self.concepts}
        return _files.pack(header, tensors)

    def save(self, path: Path) -> str:
        """Write the file and return its digest."""
        data = self.to_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest_bytes(data)

    @classmethod
    def load(cls, path: Path, *, digest: str | None = None) -> TextModel:
        """Read a file; ModelFileError when it is broken, hostile, of another format, not the one that `digest` names,
        or trained with another lexicon than the installed one."""
        header, tensors = _files.read(path, FORMAT, {"keys": np.uint32}, digest=digest)
        with _files.blaming(path, FORMAT):
            return _build(header, tensors)


def _build(header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> TextModel:
    keys = tensors["keys"]
    if keys.ndim != 1 or keys.size == 0 or not (np.diff(keys.astype(np.int64)) > 0).all():
        raise ValueError("keys are not ascending")
    if tensors["idf"].shape != keys.shape or tensors["weight"].shape != keys.shape:
        raise ValueError("keys, idf and weight do not fit")
    if header["lexicon"] != lexicon_digest():
        raise ModelFileError(
            "the text model was trained with another concept lexicon",
            expected=lexicon_digest(),
            got=str(header["lexicon"]),
            next_step="train it again with `fivefold guard train`",
        )
    if tensors["concepts"].shape != (len(lexicon()),):
        raise ValueError("one weight per concept is needed")
    return TextModel(
        keys=keys,
        idf=tensors["idf"],
        weight=tensors["weight"],
        concepts=tensors["concepts"],
        bias=_files.number(header["bias"]),
        languages=tuple(str(x) for x in header["languages"]),
        target_fpr=_files.number(header["target_fpr"]),
        dataset=str(header["dataset"]),
        concept=str(header["concept"]),
        thresholds=_files.thresholds(header["thresholds"]),
    )


def tfidf(
    found: Features, keys: NDArray[np.uint32], idf: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Indices into `keys` of the known n-grams, and their TF-IDF values scaled to unit length."""
    at = np.searchsorted(keys, found.hashes)
    known = keys[np.minimum(at, len(keys) - 1)] == found.hashes
    at = at[known]
    values = (1 + np.log(found.counts[known].astype(np.float64))) * idf[at]
    length = float(np.sqrt((values**2).sum()))
    return at, values / length if length > 0 else values
