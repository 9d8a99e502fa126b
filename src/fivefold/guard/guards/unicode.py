"""Invisible and look-alike characters: zero-width, direction marks, tag characters, Greek or Cyrillic letters in Latin
words.

They carry hidden instructions (tag characters, Boucher et al. 2021, "Bad characters", arXiv 2106.09898) or hide words
from filters. Text with a few of them is handed on clean; text that hides readable ASCII in tag characters is blocked.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from fivefold.guard.normalise import clean_unicode, hidden_characters, mixed_script_words
from fivefold.guard.texts import text_of
from fivefold.types import Exchange, Stage, Taxonomy, Verdict, digest

_JOINING_SCRIPTS = (
    "ARABIC",
    "DEVANAGARI",
    "BENGALI",
    "TAMIL",
    "MALAYALAM",
    "SINHALA",
    "TELUGU",
    "KANNADA",
    "MONGOLIAN",
    "KHMER",
)

READY = True
"""It needs no artifact and no model."""

TAXONOMY = Taxonomy(
    surface="user prompt",
    technique="invisible and look-alike characters",
    owasp=("LLM01:2025",),
    atlas=("AML.T0068",),
)
"""What it stands against, in the words of the public catalogues."""


class UnicodeGuard:
    """Cleans, or blocks where `block` names the kind of hidden character."""

    name = "unicode"
    stages: frozenset[Stage] = frozenset({"input", "output", "tool_result"})

    def __init__(self, block: Sequence[str] = ("tag",)) -> None:
        self.block = frozenset(block)

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over the kinds that block and the Unicode version."""
        return digest(["unicode/1", sorted(self.block), unicodedata.unidata_version])

    def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange."""
        return [self._check(text_of(exchange)) for exchange in exchanges]

    def _check(self, text: str) -> Verdict:
        found = hidden_characters(text)
        if _joins(text):
            found.pop("zero-width", None)
        mixed = mixed_script_words(text)
        if mixed:
            found["look-alike"] = len(mixed)
        if not found:
            return Verdict(action="allow", guard=self.name, score=0.0)
        reason = ", ".join(f"{n} {kind}" for kind, n in found.items())
        block = bool(self.block & set(found))
        return Verdict(
            action="block" if block else "redact",
            guard=self.name,
            reason=reason,
            score=float(sum(found.values())),
            replacement=None if block else clean_unicode(text),
            metadata=dict(found),
        )


def _joins(text: str) -> bool:
    """Whether the text is in a script that uses joiners for spelling."""
    return any(unicodedata.name(c, "").startswith(_JOINING_SCRIPTS) for c in text if ord(c) > 0x5FF)


def guard(block: Sequence[str] = ("tag",)) -> UnicodeGuard:
    """`block`: kinds that block (`zero-width`, `bidi`, `tag`, `variation`, `look-alike`); the others are cleaned."""
    return UnicodeGuard(block)
