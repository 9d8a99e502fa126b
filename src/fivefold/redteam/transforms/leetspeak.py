"""Leetspeak: some letters replaced by digits that look alike (Wei et al. 2023, arXiv 2307.02483, appendix)."""

from __future__ import annotations

import random

_MAP = str.maketrans({"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"})


def transform(text: str, rng: random.Random, language: str = "en") -> str:
    """`text` with about two thirds of the replaceable letters replaced."""
    return "".join(c.translate(_MAP) if rng.random() < 0.66 else c for c in text)
