"""Zero-width characters between the letters: the text looks the same and is tokenized differently (Boucher et al. 2022, "Bad
Characters: Imperceptible NLP Attacks", IEEE S&P, arXiv 2106.09898, invisible characters)."""

from __future__ import annotations

import random

_INVISIBLE = ("\u200b", "\u200c", "\u2060")


def transform(text: str, rng: random.Random, language: str = "en") -> str:
    """`text` with an invisible character after about half of its letters."""
    return "".join(c + rng.choice(_INVISIBLE) if c.isalnum() and rng.random() < 0.5 else c for c in text)
