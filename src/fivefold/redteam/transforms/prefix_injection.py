"""Prefix injection: the answer is to begin with words that agree (Wei et al. 2023, "Jailbroken", arXiv 2307.02483, competing
objectives), as a transform, so that it composes with others."""

from __future__ import annotations

import random

from fivefold.redteam.attacks.template import wrap


def transform(text: str, rng: random.Random, language: str = "en") -> str:
    """`text` in the template attack's prefix injection."""
    return wrap("prefix_injection", text, language)
