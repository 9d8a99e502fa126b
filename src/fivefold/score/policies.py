"""A written policy in a prompt: the question that is asked by its rules, and the one word that answers it.

The form (the policy whole, then a question about a text) follows Inan et al. 2023, Llama Guard (arXiv:2312.06674),
section 2; the wording is our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fivefold.errors import DataError

MAX_BYTES = 200_000
_RULE = re.compile(r"^[ \t]{0,3}(\d{1,3})[.)][ \t]+(\S.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy's text, and the numbers of its rules where it numbers them (`1. …` or `1) …` at the start of a line)."""

    text: str
    rules: tuple[str, ...]


def read_policy(path: Path) -> Policy:
    """The policy in a text file; DataError when it is missing, empty, too large, or numbers two rules alike."""
    if not path.is_file():
        raise DataError(f"no policy at {path}", expected="a text file with the policy's rules")
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise DataError(f"{path} is too large for a policy", expected=f"at most {MAX_BYTES} bytes", got=len(data))
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text", got=str(error)) from error
    if not text:
        raise DataError(f"{path} holds no policy", got="an empty file")
    rules = tuple(str(int(number)) for number, _ in _RULE.findall(text))
    if twice := sorted({r for r in rules if rules.count(r) > 1}):
        raise DataError(f"{path} numbers two rules {twice[0]}", expected="a number of its own for each rule")
    return Policy(text=text, rules=rules)


def question(policy: str, asked: str, words: Sequence[str], about: str) -> str:
    """The policy, what is `asked` by its rules, the words that may answer it in their order, and the text it is
    `about`."""
    return f"{policy}\n\nBy these rules, {asked} Answer with one word: {listed(words)}.\n{about}"


def listed(words: Sequence[str]) -> str:
    """`a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def only_word(reply: str, words: Sequence[str], *, stems: bool = False) -> str | None:
    """The only one of `words` that a reply holds, whatever its case (with `stems` also as a word's beginning: `declined`
    is `decline`); None for none or several."""
    end = "" if stems else r"\b"
    found = re.findall(rf"\b({'|'.join(map(re.escape, words))}){end}", reply, re.IGNORECASE)
    given = {word.lower() for word in found}
    return given.pop() if len(given) == 1 else None
