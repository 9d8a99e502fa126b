"""Which dtype a model computes in, as far as it can be known from here."""

from __future__ import annotations


def dtype_of(model: object) -> str | None:
    """`float32`, `bfloat16`, … of a model that runs here, seen through guards and memories around it (their `inner`);
    None for a model of another program, which does not say."""
    dtype = getattr(getattr(model, "parts", None), "dtype", None)
    if isinstance(dtype, str):
        return dtype
    inner = getattr(model, "inner", None)
    return None if inner is None else dtype_of(inner)
