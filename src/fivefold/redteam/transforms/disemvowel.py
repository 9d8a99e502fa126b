"""Disemvowelling: the vowels of Latin words are left out, a word of vowels alone excepted (Wei et al. 2023, arXiv 2307.02483,
appendix: "disemvowel")."""

from __future__ import annotations

import random
import re

_WORD = re.compile(r"[A-Za-z]+")
_VOWEL = re.compile(r"[aeiou]", re.IGNORECASE)


def transform(text: str, rng: random.Random, language: str = "en") -> str:
    """`text` without its vowels."""
    return _WORD.sub(lambda m: _VOWEL.sub("", m[0]) or m[0], text)
