"""Probes and directions as files: what was learnt, from which model and prompts, how well it does, where its thresholds
lie.

The file is safetensors, so reading it runs no code. It is the contract with whoever loads a probe elsewhere (`guard`
has a reader of its own). Format `fivefold-probe/1`:

    metadata["fivefold"]   one JSON object: format, concept, method, layer, position, languages, model, model_name,
    dataset,
                           target_fpr, thresholds {language: {value, fpr, n}}, auroc {slice: {estimate, low, high,
                           level, n_positive, n_negative}}
    weight, mean, scale    float32 [D]
    bias                   float32 [1]
    positive/LANGUAGE      float32 [n]  sorted scores of held-out positive prompts (for percentiles)
    negative/LANGUAGE      float32 [m]  sorted scores of held-out negative prompts

    score(x) = ((x - mean) / scale) · weight + bias

x is the residual stream after decoder layer `layer` (0-based) at `position` of the conversation as the chat template
renders it up to where the assistant speaks. A prompt of language l is flagged when its score reaches
thresholds[l].value. For a direction (`method` difference_of_means) `weight` has unit length and `scale` is 1, so the
score is a length along it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fivefold.errors import MissingExtraError, ModelFileError
from fivefold.types import canonical, digest_bytes

FORMAT = "fivefold-probe/1"
MAX_BYTES = 64 << 20
Position: TypeAlias = Literal["last", "mean"] | int
Vector: TypeAlias = NDArray[np.float32]
_VECTORS = ("weight", "mean", "scale")
_SCORES = ("positive", "negative")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Score from which a prompt is flagged; `fpr` is the share of the `n` benign prompts it was chosen on that reach
    it."""

    value: float
    fpr: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Separation:
    """AUROC of positive against negative prompts of one slice, with its interval."""

    estimate: float
    low: float
    high: float
    level: float
    n_positive: int
    n_negative: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeArtifact:
    """A linear read-out of one concept at one place in one model. A direction is the same thing without
    standardisation.

    Two artifacts are equal when their bytes are (`digest`).
    """

    concept: str
    method: str
    layer: int
    position: Position
    weight: Vector
    bias: float
    mean: Vector
    scale: Vector
    model: str
    model_name: str
    dataset: str
    languages: tuple[str, ...]
    target_fpr: float
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    auroc: Mapping[str, Separation] = field(default_factory=dict)
    positive: Mapping[str, Vector] = field(default_factory=dict)
    negative: Mapping[str, Vector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _VECTORS:
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        for name in _SCORES:
            kept = {k: np.sort(np.asarray(v, dtype=np.float32)) for k, v in getattr(self, name).items()}
            object.__setattr__(self, name, kept)
        object.__setattr__(self, "bias", float(np.float32(self.bias)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProbeArtifact) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def d_model(self) -> int:
        """Width D of the residual stream that it reads."""
        return len(self.weight)

    @property
    def direction(self) -> Vector:
        """Unit vector [D] in the residual stream along which the score rises fastest."""
        return np.asarray(self._gradient / np.linalg.norm(self._gradient), dtype=np.float32)

    @property
    def gap(self) -> float:
        """Distance along `direction` between the mean held-out positive and the mean held-out negative prompt."""
        if not self.positive or not self.negative:
            raise ModelFileError(f"the {self.concept} probe carries no held-out scores", next_step="train it again")
        means = [np.concatenate(list(s.values())).mean() for s in (self.positive, self.negative)]
        return float((means[0] - means[1]) / np.linalg.norm(self._gradient))

    @property
    def _gradient(self) -> Vector:
        return np.asarray(self.weight / self.scale, dtype=np.float32)

    def score(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Score of each row of `x` [N, D]; log-odds for a logistic probe, a length along the direction otherwise."""
        z = (np.asarray(x, dtype=np.float64) - self.mean) / self.scale
        return z @ self.weight.astype(np.float64) + self.bias

    @property
    def digest(self) -> str:
        """SHA-256 hex of the file's bytes."""
        return digest_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The file's content; the same artifact always gives the same bytes."""
        tensors = {name: getattr(self, name) for name in _VECTORS}
        for name in _SCORES:
            tensors.update({f"{name}/{language}": v for language, v in getattr(self, name).items()})
        tensors["bias"] = np.array([self.bias], dtype=np.float32)
        save = _safetensors().save
        return bytes(save(tensors, metadata={"fivefold": canonical({"format": FORMAT, **self.header()}).decode()}))

    def header(self) -> dict[str, Any]:
        """Everything but the numbers of the vectors, as JSON."""
        return {
            "concept": self.concept,
            "method": self.method,
            "layer": self.layer,
            "position": self.position,
            "languages": list(self.languages),
            "model": self.model,
            "model_name": self.model_name,
            "dataset": self.dataset,
            "target_fpr": self.target_fpr,
            "thresholds": {k: dict(vars(t)) for k, t in self.thresholds.items()},
            "auroc": {k: dict(vars(s)) for k, s in self.auroc.items()},
        }

    def save(self, path: Path) -> str:
        """Write the file and return its digest."""
        data = self.to_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest_bytes(data)

    @classmethod
    def load(cls, path: Path, *, digest: str | None = None) -> ProbeArtifact:
        """Read a file; ModelFileError when it is broken, hostile, of another format, or not the one that `digest`
        names."""
        return cls.from_bytes(_read(path), digest=digest, where=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, digest: str | None = None, where: str = "probe") -> ProbeArtifact:
        """The artifact in a file's bytes; see `load`."""
        if digest is not None and digest_bytes(data) != digest:
            raise ModelFileError(
                f"{where} is not the artifact that was asked for", expected=digest, got=digest_bytes(data)
            )
        header, tensors = _parse(data, where)
        try:
            return _build(header, tensors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _broken(where, f"{type(error).__name__}: {error}") from error


def _build(header: Mapping[str, Any], tensors: Mapping[str, Vector]) -> ProbeArtifact:
    width = len(tensors["weight"])
    for name in _VECTORS:
        if tensors[name].shape != (width,) or width == 0:
            raise ValueError(f"{name} has shape {tensors[name].shape}")
    scores = {n: {k.partition("/")[2]: v for k, v in tensors.items() if k.startswith(f"{n}/")} for n in _SCORES}
    if tensors["bias"].shape != (1,) or any(v.ndim != 1 or not v.size for s in scores.values() for v in s.values()):
        raise ValueError("bias or held-out scores have the wrong shape")
    if not (tensors["scale"] > 0).all() or not tensors["weight"].any():
        raise ValueError("scale must be positive and weight not zero")
    position = header["position"]
    if (
        not (position in ("last", "mean") or type(position) is int)
        or type(header["layer"]) is not int
        or header["layer"] < 0
    ):
        raise ValueError("layer or position is not a place in a model")
    return ProbeArtifact(
        concept=str(header["concept"]),
        method=str(header["method"]),
        model=str(header["model"]),
        model_name=str(header["model_name"]),
        dataset=str(header["dataset"]),
        layer=header["layer"],
        position=position,
        languages=tuple(str(x) for x in header["languages"]),
        target_fpr=_number(header["target_fpr"]),
        thresholds={str(k): _threshold(v) for k, v in header["thresholds"].items()},
        auroc={str(k): _separation(v) for k, v in header["auroc"].items()},
        bias=float(tensors["bias"][0]),
        weight=tensors["weight"],
        mean=tensors["mean"],
        scale=tensors["scale"],
        positive=scores["positive"],
        negative=scores["negative"],
    )


def _threshold(value: Mapping[str, Any]) -> Threshold:
    return Threshold(value=_number(value["value"]), fpr=_number(value["fpr"]), n=int(value["n"]))


def _separation(value: Mapping[str, Any]) -> Separation:
    floats = {k: _number(value[k]) for k in ("estimate", "low", "high", "level")}
    return Separation(**floats, n_positive=int(value["n_positive"]), n_negative=int(value["n_negative"]))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _parse(data: bytes, where: str) -> tuple[dict[str, Any], dict[str, Vector]]:
    """Header and tensors of a safetensors file, checked for kind, size and finite numbers."""
    if len(data) > MAX_BYTES:
        raise _broken(where, f"{len(data)} bytes, more than any probe needs")
    try:
        tensors = _safetensors().load(data)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["fivefold"])
    except MissingExtraError:
        raise
    except Exception as error:  # the Rust reader raises its own kinds; whatever fails here, the file is at fault
        raise _broken(where, f"{type(error).__name__}: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _broken(where, f"format {header.get('format') if isinstance(header, dict) else header!r}")
    for name, value in tensors.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise _broken(where, f"{name} is not finite float32")
    return header, tensors


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _broken(str(path), f"{path.stat().st_size} bytes, more than any probe needs")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read", expected="a probe file", got=str(error)) from error


def _broken(where: str, got: str) -> ModelFileError:
    return ModelFileError(
        f"{where} is not a usable probe",
        expected=f"safetensors of format {FORMAT} with finite float32 vectors",
        got=got[:300],
        next_step="train it again with `fivefold interpret layer-sweep`",
    )


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtraError("safetensors", "local") from error
    return safetensors.numpy
