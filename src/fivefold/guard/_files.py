"""Reading trained guards from safetensors: no code runs, sizes are bounded, numbers are finite.

Also the guard's own reader of probe files. Their format, `fivefold-probe/1`, is written down in
`fivefold.interpret.artifacts`; the two packages share the format, not code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fivefold.errors import FivefoldError, MissingExtraError, ModelFileError
from fivefold.types import canonical, digest_bytes

MAX_BYTES = 64 << 20
PROBE = "fivefold-probe/1"


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Score from which a text is flagged; `fpr` is the share of the `n` benign texts it was set on that reach it."""

    value: float
    fpr: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a guard needs of a probe file."""

    concept: str
    layer: int
    position: str | int
    weight: NDArray[np.float32]
    bias: float
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    model: str
    languages: tuple[str, ...]
    target_fpr: float
    thresholds: Mapping[str, Threshold]
    digest: str

    def score(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Score of each row of `x` [N, D]."""
        return np.asarray(
            ((x.astype(np.float64) - self.mean) / self.scale) @ self.weight.astype(np.float64) + self.bias
        )


def read_probe(path: Path, *, digest: str | None = None) -> Probe:
    """The probe in a file; ModelFileError when it is broken, hostile, of another format, or not the one `digest`
    names."""
    header, tensors = read(path, PROBE, {}, digest=digest)
    with blaming(path, PROBE):
        return _probe(header, tensors, digest_bytes(path.read_bytes()))


def _probe(header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], digest: str) -> Probe:
    weight, mean, scale = (tensors[k] for k in ("weight", "mean", "scale"))
    if weight.ndim != 1 or weight.size == 0 or mean.shape != weight.shape or scale.shape != weight.shape:
        raise ValueError("weight, mean and scale do not fit")
    if not (scale > 0).all() or tensors["bias"].shape != (1,):
        raise ValueError("scale must be positive and bias one number")
    layer, position = header["layer"], header["position"]
    if type(layer) is not int or layer < 0 or not (position in ("last", "mean") or type(position) is int):
        raise ValueError("layer or position is not a place in a model")
    return Probe(
        concept=str(header["concept"]),
        layer=layer,
        position=position,
        weight=weight,
        bias=float(tensors["bias"][0]),
        mean=mean,
        scale=scale,
        model=str(header["model"]),
        languages=tuple(str(x) for x in header["languages"]),
        target_fpr=number(header["target_fpr"]),
        thresholds=thresholds(header["thresholds"]),
        digest=digest,
    )


def pack(header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """A safetensors file with its header as canonical JSON."""
    metadata = {"fivefold": canonical(header).decode()}
    return bytes(_safetensors().save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata=metadata))


def read(
    path: Path, format: str, dtypes: Mapping[str, type], *, digest: str | None = None
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and tensors of a file of `format`; tensors are float32 unless `dtypes` says otherwise, and finite."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise broken(path, format, f"{path.stat().st_size} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read", expected="a trained guard", got=str(error)) from error
    if digest is not None and digest_bytes(data) != digest:
        raise ModelFileError(f"{path} is not the artifact that was asked for", expected=digest, got=digest_bytes(data))
    with blaming(path, format):
        tensors = _safetensors().load(data)
        outer = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        header = json.loads(outer["__metadata__"]["fivefold"])
        if header["format"] != format:
            raise ValueError(f"format {header['format']!r}")
        for name, value in tensors.items():
            if value.dtype != dtypes.get(name, np.float32) or not np.isfinite(value).all():
                raise ValueError(f"{name} is not finite {dtypes.get(name, np.float32).__name__}")
    return header, tensors


@contextmanager
def blaming(path: Path, format: str) -> Iterator[None]:
    """Whatever goes wrong inside is the file's fault."""
    try:
        yield
    except FivefoldError:
        raise
    except Exception as error:  # the Rust reader raises its own kinds
        raise broken(path, format, f"{type(error).__name__}: {error}") from error


def broken(path: Path, format: str, got: str) -> ModelFileError:
    """The error for a file that is not what it should be."""
    return ModelFileError(
        f"{path} is not a usable guard file",
        expected=f"safetensors of format {format} with finite numbers",
        got=got[:300],
        next_step="train it again",
    )


def thresholds(value: Mapping[str, Any]) -> dict[str, Threshold]:
    """Thresholds by language from a header."""
    return {str(k): Threshold(value=number(t["value"]), fpr=number(t["fpr"]), n=int(t["n"])) for k, t in value.items()}


def number(value: Any) -> float:
    """A finite number, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtraError("safetensors", "local") from error
    return safetensors.numpy
