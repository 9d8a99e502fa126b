"""Pig Latin: consonants at a word's beginning move to its end (Wei et al. 2023, arXiv 2307.02483, mismatched generalisation).
Words of other scripts stay as they are."""

from __future__ import annotations

import random
import re

_WORD = re.compile(r"[A-Za-z]+")
_HEAD = re.compile(r"^(qu|[^aeiouAEIOU]+)(.+)$")


def transform(text: str, rng: random.Random, language: str = "en") -> str:
    """`text` with its English words in Pig Latin."""
    return _WORD.sub(_turned, text)


def _turned(match: re.Match[str]) -> str:
    head = _HEAD.match(match[0])
    return f"{head[2]}{head[1]}ay" if head else f"{match[0]}way"
