"""Nothing that is tested is trained on: the check that runs before every training.

Three ways to leak. A case of the dev or test split among the training cases (its behaviour fixes its split, so this is
exact). A training prompt that is worded like a held-out one: Jaccard similarity of 5-grams of letters (spaces and
punctuation left out, so it works in any language) of at least 0.7 is the same request. A held-out prompt that stands
inside a longer training text, a prompt or an answer: at least 0.8 of its 5-grams are found there; prompts with fewer than
`LEAST` of them are found in many texts by chance and are compared as a whole only. Source: the n-gram overlap checks of
Brown et al. 2020 (arXiv:2005.14165, appendix C), with characters in place of words. Candidates come from the rarest
n-grams of a text (Bayardo et al. 2007, "Scaling up all pairs similarity search"), which loses none.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fivefold.errors import DataError
from fivefold.types import Case

SIMILAR = 0.7
WITHIN = 0.8
LEAST = 20
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
    index = Index([c.prompt for c in held_out], similar)
    found = [
        Overlap(trained=case.id, held_out=held_out[j].id, similarity=similarity)
        for case in training
        for j, similarity in index.like(case.prompt)
    ]
    return sorted(found, key=lambda o: -o.similarity)


def repeated(texts: Iterable[tuple[str, Sequence[str]]], held_out: Sequence[tuple[str, str]]) -> list[Overlap]:
    """Held-out prompts, given as (id, text), that stand in training texts, given as (id, texts), whole or within; most
    similar first, for each id its worst."""
    index = Index([text for _, text in held_out])
    found = []
    for id, parts in texts:
        hits = [hit for text in parts for hit in (*index.like(text), *index.inside(text))]
        if hits:
            j, similarity = max(hits, key=lambda hit: hit[1])
            found.append(Overlap(trained=id, held_out=held_out[j][0], similarity=similarity))
    return sorted(found, key=lambda o: -o.similarity)


def distinct(texts: Sequence[str], similar: float = 0.9) -> list[int]:
    """Indices of the texts that are not nearly an earlier one's (Jaccard similarity of at least `similar`)."""
    index, kept = Index(texts, similar, least=similar), list[int]()
    first: set[int] = set()
    for i, text in enumerate(texts):
        if not any(j in first for j, _ in index.like(text) if j < i):
            kept.append(i)
            first.add(i)
    return kept


class Index:
    """Texts that are looked for in others, by the rarest of their n-grams.

    Two texts that share at least a share t of one's n grams share one of its n - ⌈t·n⌉ + 1 rarest, so only these are
    kept. `similar` is the least similarity that is found; with a `least` above `WITHIN` only `like` finds everything.
    """

    def __init__(self, texts: Sequence[str], similar: float = SIMILAR, least: float | None = None) -> None:
        self.grams = [shingles(t) for t in texts]
        self.similar = similar
        common = Counter(g for grams in self.grams for g in grams)
        self.where: dict[str, list[int]] = defaultdict(list)
        least = min(similar, WITHIN) if least is None else least
        for j, grams in enumerate(self.grams):
            rare = sorted(grams, key=lambda g: (common[g], g))[: len(grams) - math.ceil(least * len(grams)) + 1]
            for g in rare:
                self.where[g].append(j)

    def like(self, text: str) -> list[tuple[int, float]]:
        """(index, Jaccard similarity) of the texts that `text` is worded like."""
        own = shingles(text)
        return [
            (j, share)
            for j, n in self._shared(own)
            if (share := n / (len(own) + len(self.grams[j]) - n)) >= self.similar
        ]

    def inside(self, text: str) -> list[tuple[int, float]]:
        """(index, share of it) of the texts that stand inside `text`, of at least `LEAST` n-grams."""
        return [
            (j, share)
            for j, n in self._shared(shingles(text))
            if len(self.grams[j]) >= LEAST and (share := n / len(self.grams[j])) >= WITHIN
        ]

    def _shared(self, own: frozenset[str]) -> Iterator[tuple[int, int]]:
        for j in sorted({j for g in own for j in self.where.get(g, ())}):
            yield j, len(own & self.grams[j])


def shingles(text: str) -> frozenset[str]:
    """The 5-grams of a text's letters and digits, in lower case; a shorter text is its own."""
    plain = "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())
    return frozenset(plain[i : i + SHINGLE] for i in range(max(1, len(plain) - SHINGLE + 1)))
