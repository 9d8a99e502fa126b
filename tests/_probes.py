"""A white-box model whose inside is simple arithmetic, and probe files for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fivefold.guard import _files
from fivefold.runtime.protocol import Capability

WIDTH = 4


class FakeWhiteBox:
    """Activations: first number counts the word `bomb` in the last user turn, the others come from its hash."""

    name = "fake"
    fingerprint = "f" * 64
    capabilities = frozenset({Capability.GENERATE, Capability.ACTIVATIONS})
    n_layers, d_model = 3, WIDTH

    def __init__(self, value: float | None = None) -> None:
        self.value, self.calls = value, 0

    def activations(self, contexts: Sequence[Any], *, layers: Sequence[int], position: Any = "last") -> Any:
        import torch

        self.calls += 1
        rows = [[self._row(context, layer) for layer in layers] for context in contexts]
        return torch.tensor(np.array(rows, dtype=np.float32))

    def _row(self, context: Any, layer: int) -> list[float]:
        text = next(m.content for m in reversed(context) if m.role == "user")
        noise = [b / 2550 for b in hashlib.sha256(f"{layer}{text}".encode()).digest()[: WIDTH - 1]]
        count = float(text.lower().count("bomb")) if self.value is None else self.value
        return [count, *noise]


def probe_bytes(**header: Any) -> bytes:
    """A probe of FakeWhiteBox that reads the first number: score = 2 · count - 1, threshold 0 in English and Korean."""
    meta = {
        "format": _files.PROBE,
        "concept": "harmfulness",
        "method": "linear_probe",
        "layer": 1,
        "position": "last",
        "languages": ["en", "ko"],
        "model": FakeWhiteBox.fingerprint,
        "model_name": "fake",
        "dataset": "d",
        "target_fpr": 0.05,
        "thresholds": {k: {"value": 0.0, "fpr": 0.05, "n": 20} for k in ("en", "ko")},
        "auroc": {},
        **header,
    }
    weight = np.array([2.0] + [0.0] * (WIDTH - 1), dtype=np.float32)
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    tensors = {"weight": weight, "mean": zeros, "scale": ones, "bias": np.array([-1.0], np.float32)}
    return _files.pack(meta, tensors)
