"""Role play: the request inside the role-play wrapper of the template attack, so that it composes with other
transforms. Source: persona jailbreaks as catalogued by Shen et al. 2023 (arXiv 2308.03825)."""

from __future__ import annotations

import random

from fivefold.redteam.attacks.template import wrap


def transform(text: str, rng: random.Random, language: str = "en") -> str:
    """`text` wrapped in the role-play template of its language."""
    return wrap("role_play", text, language)
