"""Canonical JSON and digests of plain values and frozen dataclasses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def plain(value: Any) -> Json:
    """`value` as JSON types: dataclasses become objects (with their `kind` tag if they have one), tuples lists.

    NaN and infinities raise ValueError: fivefold has no number that stands for "not measured".
    """
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be stored: use an Unscored or Errored outcome instead")
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _dataclass(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(v) for v in items]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _dataclass(value: Any) -> dict[str, Json]:
    out: dict[str, Json] = {}
    kind = getattr(type(value), "kind", None)
    if isinstance(kind, str):
        out["kind"] = kind
    for field in dataclasses.fields(value):
        out[field.name] = plain(getattr(value, field.name))
    return out


def canonical(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, as hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as hex."""
    return hashlib.sha256(data).hexdigest()
