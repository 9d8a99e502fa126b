"""Delta debugging over any sequence: the fewest items that still show the failure, many candidates a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Reduced(Generic[T]):
    """What is left. `minimal`: no single item of it can go; otherwise the budget ended first. `tests` were made."""

    items: tuple[T, ...]
    minimal: bool
    tests: int


def ddmin(
    items: Sequence[T], shows: Callable[[list[tuple[T, ...]]], list[bool]], *, budget: int, batch: int = 16
) -> Reduced[T]:
    """Reduce `items`, which show the failure, to a part that still does.

    Zeller & Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing Input" (IEEE TSE 28(2), algorithm ddmin).
    Deviation: the parts of one granularity are tested in batches of `batch` through `shows`, and the first batch with a
    hit decides; the result is 1-minimal all the same when the budget lasts. A part is never tested twice.
    """
    left, pieces, tests = tuple(range(len(items))), 2, 0
    known: set[tuple[int, ...]] = set()
    while len(left) > 1:
        fresh = [c for c in _candidates(left, pieces) if c not in known]
        found: tuple[int, ...] | None = None
        while fresh and found is None:
            part = fresh[: min(batch, budget - tests)]
            if not part:
                return Reduced(items=tuple(items[i] for i in left), minimal=False, tests=tests)
            fresh = fresh[len(part) :]
            known.update(part)
            tests += len(part)
            hits = shows([tuple(items[i] for i in c) for c in part])
            found = min((c for c, hit in zip(part, hits, strict=True) if hit), key=len, default=None)
        if found is not None:
            pieces = 2 if len(found) * 2 <= len(left) else max(2, pieces - 1)
            left = found
        elif pieces >= len(left):
            break
        else:
            pieces = min(len(left), pieces * 2)
    return Reduced(items=tuple(items[i] for i in left), minimal=True, tests=tests)


def _candidates(left: tuple[int, ...], pieces: int) -> Iterator[tuple[int, ...]]:
    """Each of `pieces` parts alone, then everything without it."""
    pieces = min(pieces, len(left))
    bounds = [len(left) * i // pieces for i in range(pieces + 1)]
    parts = [(bounds[i], bounds[i + 1]) for i in range(pieces)]
    yield from (left[a:b] for a, b in parts)
    if pieces > 2:
        yield from (left[:a] + left[b:] for a, b in parts)
