"""A tiny random Llama, and prompts whose concept (a marker word) it can be read for."""

from __future__ import annotations

from typing import Any

import pytest

from fivefold.types import Case, user_case

TOPICS = ("cats", "tea", "maps", "rain", "bread", "kites", "music", "trains", "snow", "chess")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("torch")
    from _tiny import tiny_folder
    from fivefold.runtime.load import load

    return load(str(tiny_folder(tmp_path_factory.mktemp("tiny") / "model")))


@pytest.fixture(scope="session")
def prompts() -> tuple[list[Case], list[Case]]:
    """120 behaviours: a positive and a negative prompt each, in two languages, told apart by their last word."""
    sides: tuple[list[Case], list[Case]] = ([], [])
    for i in range(120):
        for side, word in zip(sides, ("zebra", "quick"), strict=True):
            language = "en" if i % 2 else "ko"
            text = f"Tell me about {TOPICS[i % 10]} number {i} {word}"
            side.append(user_case(f"{word}/{i}", text, behaviour=f"b{i}", language=language))
    return sides
