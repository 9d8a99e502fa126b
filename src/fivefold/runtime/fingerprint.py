"""What makes a model this model: digests of weights, configuration, tokenizer, template, adapters, interventions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fivefold.errors import ModelFileError
from fivefold.runtime._cache import file_digest
from fivefold.runtime._files import Source
from fivefold.runtime.protocol import Intervention
from fivefold.types import digest

VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "quantization_config", "architectures")
"""Configuration keys that do not change what the model computes."""

DTYPES = ("float32", "bfloat16", "float16")
"""What a local model is loaded in."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The parts, each a SHA-256 hex (or the dtype's name); `digest` is over all of them."""

    weights: str
    config: str
    tokenizer: str
    chat_template: str
    dtype: str
    adapters: tuple[str, ...] = ()
    interventions: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 hex over everything that changes answers."""
        return digest(self)

    def with_adapter(self, adapter: str) -> Fingerprint:
        """The fingerprint with one more adapter on top."""
        return replace(self, adapters=(*self.adapters, adapter))

    def dtype_of(self, wanted: str) -> str | None:
        """The dtype in which a model of these parts has the digest `wanted`; None where it has it in none."""
        return next((kind for kind in DTYPES if replace(self, dtype=kind).digest == wanted), None)

    def with_interventions(self, interventions: Sequence[Intervention]) -> Fingerprint:
        """The fingerprint with more interventions after those already there."""
        return replace(self, interventions=(*self.interventions, *(digest(i) for i in interventions)))


def fingerprint_model(source: Source, config: Any, tokenizer: Any, dtype: str) -> Fingerprint:
    """Fingerprint of a loaded model: weight files by content, the rest as it was read."""
    weights = {path.name: file_digest(path) for path in source.weights}
    settings = {k: v for k, v in config.to_dict().items() if k not in VOLATILE}
    return Fingerprint(
        weights=digest(weights),
        config=_text_digest(json.dumps(settings, sort_keys=True, default=str)),
        tokenizer=_text_digest(_tokenizer_text(tokenizer)),
        chat_template=_text_digest(json.dumps(tokenizer.chat_template, sort_keys=True)),
        dtype=dtype,
    )


def fingerprint_adapter(folder: Path) -> str:
    """SHA-256 hex over an adapter's configuration and weights."""
    files = sorted(p for p in folder.glob("adapter_*") if p.is_file()) if folder.is_dir() else []
    if not files:
        raise ModelFileError(f"no adapter in {folder}", expected="adapter_config.json and adapter_model.safetensors")
    return digest({p.name: file_digest(p) for p in files})


def _tokenizer_text(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return f"{text}\0{special}"


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
