"""Several answers to one case: the chance that one of k is right, and that all k are.

`any_of_k` flatters (who tries often enough succeeds once), `all_of_k` is what a user who relies on the model sees.

Sources
- Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374 (2021), sec. 2.1: the unbiased
  estimator of pass@k from n >= k samples.
- Yao et al., "τ-bench", arXiv 2406.12045 (2024), sec. 3: pass^k, the chance that k of k succeed, with the same trick.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

from fivefold.errors import UsageError
from fivefold.stats.clustered import clustered_rate
from fivefold.stats.intervals import Interval
from fivefold.types import Outcome, Scored


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Of k answers to a case: the chance that at least one succeeds, and that all do.

    `cases` counts cases with at least k scored answers; `left_out` names the others.
    """

    k: int
    any_of_k: Interval
    all_of_k: Interval
    cases: int
    left_out: tuple[str, ...]


def any_of_k(n: int, successes: int, k: int) -> float:
    """Unbiased chance that at least one of k answers succeeds, from `successes` of n >= k (pass@k)."""
    _check(n, successes, k)
    return 1 - comb(n - successes, k) / comb(n, k)


def all_of_k(n: int, successes: int, k: int) -> float:
    """Unbiased chance that all of k answers succeed, from `successes` of n >= k (pass^k)."""
    _check(n, successes, k)
    return comb(successes, k) / comb(n, k)


def reliability(
    answers: Mapping[str, Sequence[Outcome]],
    k: int,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    level: float = 0.95,
) -> Reliability:
    """Means over cases of both chances, with intervals that count effective cases.

    `answers`: case -> the outcomes of its samples, each 0 or 1. Unscored and errored samples are no samples; a case
    with fewer than k scored ones is left out by name, because a score from fewer would be another quantity.
    """
    values = {id: [o.value for o in found if isinstance(o, Scored)] for id, found in answers.items()}
    if any(v not in (0, 1) for row in values.values() for v in row):
        raise UsageError("reliability counts successes", expected="scores of 0 or 1", got="scores in between")
    enough = {id: (len(row), int(sum(row))) for id, row in values.items() if len(row) >= k}
    groups = [id if clusters is None else clusters[id] for id in enough]
    return Reliability(
        k=k,
        any_of_k=clustered_rate([any_of_k(n, c, k) for n, c in enough.values()], groups, level),
        all_of_k=clustered_rate([all_of_k(n, c, k) for n, c in enough.values()], groups, level),
        cases=len(enough),
        left_out=tuple(id for id in values if id not in enough),
    )


def _check(n: int, successes: int, k: int) -> None:
    if not (1 <= k <= n and 0 <= successes <= n):
        raise UsageError(
            "not k of n answers", expected="1 <= k <= n, 0 <= successes <= n", got=f"k={k}, n={n}, {successes} succeed"
        )
