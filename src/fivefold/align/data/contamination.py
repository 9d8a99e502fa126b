"""Nothing that is tested is trained on: the check that runs before every patch.

Two ways to leak: a case of the dev or test split among the training cases (its behaviour fixes its split, so this is
exact), and a training prompt that is worded like a held-out one. The second is found by overlap of 5-grams of letters
(spaces and punctuation left out), which works in any language: Jaccard similarity of at least 0.7 is the same
request. Source: the n-gram overlap
checks of Brown et al. 2020 (arXiv:2005.14165, appendix C), with characters in place of words.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fivefold.errors import DataError
from fivefold.types import Case

SIMILAR = 0.7
SHINGLE = 5


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A training case and the held-out case that it repeats, with their similarity in [0, 1]."""

    trained: str
    held_out: str
    similarity: float


def refuse_contaminated(training: Iterable[Case], held_out: Sequence[Case] = ()) -> None:
    """Raise DataError if a training case is of another split than train, or worded like a held-out case."""
    cases = list(training)
    leaked = [c for c in cases if c.split != "train"]
    if leaked:
        raise DataError(
            f"{len(leaked)} training cases belong to behaviours that are held out for measuring",
            expected="cases of the train split only",
            got=", ".join(f"{c.id} ({c.split})" for c in leaked[:5]),
            next_step='pass suite(…).cases(split="train")',
        )
    found = overlaps(cases, held_out)
    if found:
        raise DataError(
            f"{len(found)} training prompts repeat held-out ones",
            got=", ".join(f"{o.trained} = {o.held_out} ({o.similarity:.2f})" for o in found[:5]),
            next_step="drop these training cases",
        )


def overlaps(training: Sequence[Case], held_out: Sequence[Case], similar: float = SIMILAR) -> list[Overlap]:
    """Training cases whose last user turn is nearly a held-out one's, most similar first."""
    where: dict[str, list[int]] = defaultdict(list)
    held = [_shingles(c.prompt) for c in held_out]
    for j, shingles in enumerate(held):
        for s in shingles:
            where[s].append(j)
    found = []
    for case in training:
        own = _shingles(case.prompt)
        shared: dict[int, int] = defaultdict(int)
        for s in own:
            for j in where.get(s, ()):
                shared[j] += 1
        for j, n in shared.items():
            similarity = n / (len(own) + len(held[j]) - n)
            if similarity >= similar:
                found.append(Overlap(trained=case.id, held_out=held_out[j].id, similarity=similarity))
    return sorted(found, key=lambda o: -o.similarity)


def _shingles(text: str) -> frozenset[str]:
    plain = "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())
    return frozenset(plain[i : i + SHINGLE] for i in range(max(1, len(plain) - SHINGLE + 1)))
