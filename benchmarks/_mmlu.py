"""MMLU (Hendrycks et al. 2020) from the local mirror, as 5-shot prompts in two forms."""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path

LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """One question: what stands before the answer, its four continuations, and the index of the right one."""

    context: str
    options: tuple[str, ...]
    answer: int


def folder() -> Path:
    """`FIVEFOLD_DATA`/mmlu; says what is missing where it is not set."""
    root = os.environ.get("FIVEFOLD_DATA")
    if not root or not (Path(root) / "mmlu" / "test").is_dir():
        sys.exit("this benchmark reads MMLU from a local mirror: set FIVEFOLD_DATA to a folder that holds mmlu/")
    return Path(root) / "mmlu"


def _rows(path: Path) -> list[list[str]]:
    """Rows `question, choice0 … choice3, answer` without the line of names."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def _render(row: list[str], form: str) -> tuple[str, tuple[str, ...], int]:
    """What stands before the answer, its continuations, and the right one."""
    question, options, answer = row[0].strip(), row[1:5], int(row[5])
    if form == "letters":
        listed = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=True))
        return f"{question}\n{listed}Answer:", tuple(f" {letter}" for letter in LETTERS), answer
    return f"Question: {question}\nAnswer:", tuple(f" {option}" for option in options), answer


def questions(form: str, subject: str, each: int) -> list[Question]:
    """The first `each` test questions of a subject behind its one 5-shot header; `form` is `letters` or `options`."""
    header = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    for row in _rows(folder() / "dev" / f"{subject}_dev.csv")[:5]:
        context, options, answer = _render(row, form)
        header += f"{context}{options[answer]}\n\n"
    rendered = (_render(row, form) for row in _rows(folder() / "test" / f"{subject}_test.csv")[:each])
    return [Question(header + context, options, answer) for context, options, answer in rendered]
