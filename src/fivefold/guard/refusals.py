"""What a blocked request is answered with: one of several short refusals in its own language, the same one every
time.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

import yaml

from fivefold.types.language import language_of


@cache
def refusals() -> dict[str, tuple[str, ...]]:
    """Refusals by language."""
    text = (files("fivefold.guard") / "data" / "refusals.yaml").read_text(encoding="utf-8")
    return {language: tuple(texts) for language, texts in yaml.safe_load(text).items()}


def refusal(prompt: str) -> str:
    """The refusal for this prompt; which one follows from the prompt's hash, so runs repeat and answers still vary."""
    texts = refusals()[language_of(prompt)]
    return texts[int(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest(), 16) % len(texts)]
