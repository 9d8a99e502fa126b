"""Homoglyphs: Latin letters replaced by Cyrillic or Greek ones that look alike (Boucher et al. 2022, "Bad Characters:
Imperceptible NLP Attacks", IEEE S&P, arXiv 2106.09898). Korean and Japanese letters have no such doubles and stay."""

from __future__ import annotations

import random

_LATIN = "aceopxyiAEOPCTXHKMB"
_ALIKE = (
    "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456\u0410\u0415\u041e\u0420\u0421\u0422\u0425\u041d\u041a\u041c\u0412"
)
_DOUBLES = str.maketrans(_LATIN, _ALIKE)


def transform(text: str, rng: random.Random, language: str = "en") -> str:
    """`text` with about seven tenths of the replaceable letters replaced."""
    return "".join(c.translate(_DOUBLES) if rng.random() < 0.7 else c for c in text)
