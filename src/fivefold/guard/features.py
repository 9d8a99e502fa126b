"""What a text classifier sees of a text: character n-grams as hashed counts, and concepts. numpy only.

Character n-grams need no tokenizer and serve every script; the concepts of `data/lexicon.yaml` carry what is learnt in
one language to the others.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import yaml
from numpy.typing import NDArray

from fivefold.types import digest_bytes

LENGTHS = (1, 2, 3, 4, 5)
WINDOW = 2_000
"""A longer text is read in overlapping windows of this many characters."""
_NEAR = 20
_GAPS = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True)
class Features:
    """Hashes of the n-grams present, ascending, how often each occurs, and the indices of the concepts present."""

    hashes: NDArray[np.uint32]
    counts: NDArray[np.float32]
    concepts: tuple[int, ...]


def folded(text: str) -> str:
    """NFKC, lower case, white space squeezed."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def windows(text: str) -> list[str]:
    """The text in windows of WINDOW characters that overlap by half; a short text is one window."""
    if len(text) <= WINDOW:
        return [text]
    step = WINDOW // 2
    return [text[i : i + WINDOW] for i in range(0, len(text) - step, step)]


def features(text: str) -> Features:
    """n-grams of 1 to 5 characters, and concepts, of a text."""
    clean = folded(text)
    grams = Counter(clean[i : i + n] for n in LENGTHS for i in range(len(clean) - n + 1))
    hashed: Counter[int] = Counter()
    for gram, n in grams.items():
        hashed[zlib.crc32(gram.encode("utf-8", "surrogatepass"))] += n
    keys = np.fromiter(hashed.keys(), dtype=np.uint32, count=len(hashed))
    order = np.argsort(keys)
    counts = np.fromiter(hashed.values(), dtype=np.float32, count=len(hashed))
    return Features(hashes=keys[order], counts=counts[order], concepts=concepts_in(clean))


@dataclass(frozen=True, kw_only=True)
class Concept:
    """Stems that begin a word, stems that may stand anywhere, and patterns of stems in sequence."""

    starts: tuple[str, ...]
    anywhere: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]


def concepts_in(clean: str) -> tuple[int, ...]:
    """Indices, in the lexicon's order, of the concepts whose stems occur in a folded text."""
    words = f" {_GAPS.sub(' ', clean)}"
    return tuple(i for i, concept in enumerate(lexicon().values()) if _occurs(concept, clean, words))


def _occurs(concept: Concept, clean: str, words: str) -> bool:
    return (
        any(s in words for s in concept.starts)
        or any(s in clean for s in concept.anywhere)
        or any(p.search(words) for p in concept.patterns)
    )


@cache
def lexicon() -> dict[str, Concept]:
    """Concept by name. English stems begin a word; Korean and Japanese ones stand anywhere; `a+b` is a, then b soon
    after."""
    return {name: _concept(stems) for name, stems in yaml.safe_load(_lexicon_bytes()).items()}


@cache
def lexicon_digest() -> str:
    """SHA-256 of the concept lexicon."""
    return digest_bytes(_lexicon_bytes())


def _lexicon_bytes() -> bytes:
    return (files("fivefold.guard") / "data" / "lexicon.yaml").read_bytes()


def _concept(stems: dict[str, str]) -> Concept:
    english = [folded(s) for s in stems["en"].split()]
    others = [folded(s) for language in ("ko", "ja") for s in stems[language].split()]
    return Concept(
        starts=tuple(f" {_GAPS.sub(' ', s)}" for s in english if "+" not in s),
        anywhere=tuple(s for s in others if "+" not in s),
        patterns=tuple(_sequence(s, r"\b") for s in english if "+" in s)
        + tuple(_sequence(s, "") for s in others if "+" in s),
    )


def _sequence(stem: str, start: str) -> re.Pattern[str]:
    parts = [start + re.escape(_GAPS.sub(" ", part)) for part in stem.split("+")]
    return re.compile(f".{{0,{_NEAR}}}?".join(parts))
