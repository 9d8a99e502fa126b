"""Two judges of the same answers: how often they differ, and by how much more than chance would have them agree.

Verdicts are compared by label where the judges share labels (`refusal`, `compliance`, …), else by event (a value of at
least one half). Answers that only one of them could judge compare with nothing and are counted apart. High agreement is
not accuracy: two judges may share an error; only labels of people measure that (`judge.py`).

Sources
- Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20 (1960).
- Feinstein & Cicchetti, "High agreement but low kappa", J. Clinical Epidemiology 43 (1990): why the rate stands beside
  kappa, which is low by construction where nearly all verdicts are the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fivefold.errors import UsageError
from fivefold.stats.clustered import clustered_rate
from fivefold.stats.intervals import Interval
from fivefold.stats.judge import cohen_kappa
from fivefold.types import Outcome, Scored

EVENT = 0.5


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What two judges said of the same answers. `disagree` is the share on which they differ, clustered by behaviour."""

    by: Literal["label", "event"]
    n: int
    disagree: Interval
    kappa: float | None
    """None where both always said the same one thing: chance agreement is then full too."""
    table: Mapping[str, Mapping[str, int]]
    """First judge's verdict -> second judge's -> answers."""
    differ: tuple[str, ...]
    """Ids of the answers on which they differ."""
    only_first: int
    only_second: int
    rates: tuple[float | None, float | None]
    """The rate by each judge, over the answers that both judged."""


def agreement(
    first: Mapping[str, Outcome],
    second: Mapping[str, Outcome],
    *,
    clusters: Mapping[str, Hashable] | None = None,
    level: float = 0.95,
) -> Agreement:
    """Compare two judges' outcomes by answer id; UsageError when they did not judge the same answers."""
    if set(first) != set(second):
        raise UsageError(
            "not two judges of the same answers", expected="the same ids", got=f"{len(first)}, {len(second)}"
        )
    pairs = {i: (a, b) for i, a in first.items() if isinstance(a, Scored) and isinstance(b := second[i], Scored)}
    by = _compared_by(list(pairs.values()))
    said = {i: (_verdict(a, by), _verdict(b, by)) for i, (a, b) in pairs.items()}
    names = sorted({v for verdicts in said.values() for v in verdicts})
    counted = {a: {b: sum(v == (a, b) for v in said.values()) for b in names} for a in names}
    groups = None if clusters is None else [clusters[i] for i in said]
    return Agreement(
        by=by,
        n=len(said),
        disagree=clustered_rate([float(a != b) for a, b in said.values()], groups, level),
        kappa=cohen_kappa([a for a, _ in said.values()], [b for _, b in said.values()]),
        table=counted,
        differ=tuple(i for i, (a, b) in said.items() if a != b),
        only_first=sum(isinstance(o, Scored) for i, o in first.items() if i not in pairs),
        only_second=sum(isinstance(o, Scored) for i, o in second.items() if i not in pairs),
        rates=(_mean([a.value for a, _ in pairs.values()]), _mean([b.value for _, b in pairs.values()])),
    )


def _compared_by(pairs: Sequence[tuple[Scored, Scored]]) -> Literal["label", "event"]:
    mine, theirs = {a.label for a, _ in pairs}, {b.label for _, b in pairs}
    return "label" if mine & theirs and "" not in mine | theirs else "event"


def _verdict(outcome: Scored, by: Literal["label", "event"]) -> str:
    if by == "label":
        return outcome.label
    return "event" if outcome.value >= EVENT else "no event"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
