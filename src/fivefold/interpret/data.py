"""Labelled prompts and the activations that they cause, aligned row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fivefold.errors import DataError, UsageError
from fivefold.interpret._linear import Mask
from fivefold.interpret.artifacts import Position
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.types import Case, digest


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Cases with a label: positive (has the concept) or negative. N rows."""

    cases: tuple[Case, ...]
    positive: Mask

    @classmethod
    def of(cls, positive: Sequence[Case], negative: Sequence[Case], languages: Sequence[str] | None = None) -> Prompts:
        """Positives, then negatives, of the given languages (None: all)."""
        keep = [[c for c in side if languages is None or c.language in languages] for side in (positive, negative)]
        labels = np.array([True] * len(keep[0]) + [False] * len(keep[1]), dtype=np.bool_)
        return cls(cases=(*keep[0], *keep[1]), positive=labels)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages present, in order of first appearance."""
        return tuple(dict.fromkeys(c.language for c in self.cases))

    def of_language(self, language: str | None) -> Mask:
        """Rows of one language; all rows for None."""
        return np.array([language is None or c.language == language for c in self.cases], dtype=np.bool_)

    def of_split(self, split: str) -> Mask:
        """Rows of one split."""
        return np.array([c.split == split for c in self.cases], dtype=np.bool_)

    @property
    def clusters(self) -> NDArray[np.str_]:
        """Behaviour of each row: translations and look-alikes of one behaviour are not independent."""
        return np.array([c.behaviour or c.id for c in self.cases], dtype=np.str_)

    def and_(self, other: Prompts) -> Prompts:
        """These rows, then the other ones."""
        return Prompts(cases=(*self.cases, *other.cases), positive=np.concatenate([self.positive, other.positive]))

    def rows(self, mask: Mask) -> Prompts:
        """The rows of a mask."""
        return Prompts(cases=tuple(c for c, m in zip(self.cases, mask, strict=True) if m), positive=self.positive[mask])

    def folds(self, n: int) -> NDArray[np.int64]:
        """Fold 0 … n-1 of each row, by behaviour, the same in every run."""
        return np.array([int(digest(str(b))[:8], 16) % n for b in self.clusters], dtype=np.int64)

    @property
    def digest(self) -> str:
        """SHA-256 over ids, conversations and labels."""
        rows = [
            [c.id, [[m.role, m.content] for m in c.messages], bool(p)]
            for c, p in zip(self.cases, self.positive, strict=True)
        ]
        return digest(rows)

    def check(self, *splits: str) -> None:
        """DataError unless every split has both kinds of prompt."""
        for split in splits:
            rows = self.of_split(split)
            n = int((rows & self.positive).sum()), int((rows & ~self.positive).sum())
            if min(n) < 2:
                raise DataError(
                    f"too few prompts in the {split} split to train and judge a probe",
                    expected="at least 2 of each kind",
                    got=f"{n[0]} positive, {n[1]} negative",
                    next_step="take more cases: splits follow the behaviour's hash (50 / 15 / 35 %)",
                )


def collect(
    model: WhiteBox, cases: Sequence[Case], *, layers: Sequence[int], position: Position, for_: str
) -> NDArray[np.float32]:
    """Residual stream [N, len(layers), D] at `position` of each case's conversation, all layers in one forward pass.

    The first token of a context is refused: its norm is that of an attention sink, a hundred times all others, and
    carries nothing of the prompt.
    """
    require(model, Capability.ACTIVATIONS, for_=for_)
    if position == 0:
        raise UsageError(
            "position 0 is an attention sink and says nothing of the prompt", expected="last, mean or another token"
        )
    wrong = [layer for layer in layers if not 0 <= layer < model.n_layers]
    if wrong or not layers:
        raise UsageError("no such decoder layer", expected=f"0 … {model.n_layers - 1}", got=list(layers))
    contexts = [c.messages for c in cases]
    return np.asarray(
        model.activations(contexts, layers=list(layers), position=position).cpu().numpy(), dtype=np.float32
    )
