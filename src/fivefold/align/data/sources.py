"""Authored training data that ships with the package: safe answers, everyday requests, and frames around requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from fivefold.errors import DataError
from fivefold.types import Case, user_case


@dataclass(frozen=True, kw_only=True)
class SafeAnswer:
    """A written answer that declines a request of one hazard category and offers something better."""

    category: str
    language: str
    text: str


def safe_answers() -> tuple[SafeAnswer, ...]:
    """Every authored safe answer, in file order."""
    return tuple(
        SafeAnswer(category=row["category"], language=row["language"], text=row["answer"])
        for row in _rows("safe_answers.jsonl", ("category", "language", "answer"))
    )


def everyday() -> tuple[Case, ...]:
    """Ordinary requests for training, no look-alikes of anything harmful."""
    return tuple(
        user_case(row["id"], row["prompt"], suite="everyday", behaviour=row["id"], language=row["language"])
        for row in _rows("everyday.jsonl", ("id", "language", "prompt"))
    )


def contrast() -> tuple[Case, ...]:
    """Harmless requests that sound like a hazard category, beside the suites' own look-alikes."""
    return tuple(
        user_case(
            row["id"], row["prompt"], suite="contrast", behaviour=row["id"], language=row["language"],
            category=row["category"],
        )
        for row in _rows("contrast.jsonl", ("id", "language", "category", "prompt"))
    )  # fmt: skip


def everyday_eval() -> tuple[Case, ...]:
    """Ordinary requests that are never trained on."""
    return tuple(
        user_case(row["id"], row["prompt"], suite="everyday", behaviour=row["id"], language=row["language"])
        for row in _rows("everyday_eval.jsonl", ("id", "language", "prompt"))
    )


@cache
def frames() -> Mapping[str, Mapping[str, str]]:
    """Frame name → language → text with `{request}`."""
    loaded: Mapping[str, Mapping[str, str]] = yaml.safe_load(_text("frames.yaml"))
    return loaded


def frame(name: str, prompt: str, language: str) -> str:
    """`prompt` inside a frame, in its language where the frame has it, else in English."""
    texts = frames()[name]
    return texts.get(language, texts["en"]).replace("{request}", prompt)


def _text(name: str) -> str:
    return (files("fivefold.align.data") / name).read_text(encoding="utf-8")


def _rows(name: str, needed: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_text(name).splitlines(), start=1):
        row = json.loads(line)
        if missing := [k for k in needed if not row.get(k)]:
            raise DataError(f"{name} line {number} lacks {missing[0]!r}", expected=", ".join(needed))
        yield row
