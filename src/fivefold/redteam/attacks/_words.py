"""Texts that attacks send or give to an attacker, read once from the YAML files beside them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def words(name: str) -> Mapping[str, Any]:
    """The content of `NAME.yaml` in this folder."""
    loaded: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def in_language(texts: Mapping[str, str], language: str) -> str:
    """The text of a language, English where there is none."""
    return texts.get(language, texts["en"])


def filled(texts: Mapping[str, str], prompt: str, language: str) -> str:
    """The text of a language with the request in its place."""
    return in_language(texts, language).replace("{request}", prompt)
