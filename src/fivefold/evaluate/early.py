"""Stop asking when the answer is known: `--stop-when "harmful_compliance <= 0.05"`.

Cases are asked in random order (a hash of the seed and the behaviour, whole behaviours together) and looked at after 32
of them, then after each 32 more, and later after half as many again as are in. Asking ends when the rate's confidence
sequence lies on one side of the bound. A look comes only after every case of it was asked, because answers that end
early are not a random part.

An ordinary interval is wrong after such a stop, and so are the tests that compare runs: every rate of such a run
carries the sequence's interval, no rate is corrected for the judge's error, and `compare` refuses the run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from fivefold.engine.run import RunResult
from fivefold.errors import UsageError
from fivefold.stats import Interval, cluster_means, may_stop
from fivefold.types import Case, Outcome, Safer, Scored

FIRST_LOOK = 32
GROWTH = 1.5

Answer: TypeAlias = Literal["holds", "does not hold", "open"]
Ask: TypeAlias = Callable[[Sequence[Case], int], RunResult]
"""(cases, number of the look from 1) -> what they gave."""

_BOUND = re.compile(r"\s*(?:([A-Za-z]\w*)\s*)?(<=|>=|<|>)\s*(\d*\.?\d+)\s*(%?)\s*")


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A statement on a rate that is to be settled. `metric` None is the suite's own metric."""

    metric: str | None
    at_most: bool
    value: float

    def __str__(self) -> str:
        return f"{self.metric or 'rate'} {'<=' if self.at_most else '>='} {self.value:g}"


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """How a run that was allowed to stop early ended. `interval` holds at all looks at once."""

    suite: str
    bound: str
    answer: Answer
    asked: int
    of: int
    looks: int
    interval: Interval

    @property
    def early(self) -> bool:
        """Whether cases were left unasked because the answer was known."""
        return self.answer != "open" and self.asked < self.of


def parse_bound(text: str) -> Bound:
    """`METRIC <= 0.05`, `>= 80%`; UsageError for anything else. Strict and weak order are the same on a rate."""
    found = _BOUND.fullmatch(text)
    value = float(found[3]) / (100 if found[4] else 1) if found else -1.0
    if not found or not 0 < value < 1:
        raise UsageError(
            "no bound to stop at",
            expected="[METRIC] <= or >= a rate between 0 and 1",
            got=text,
            next_step='--stop-when "harmful_compliance <= 0.05"',
        )
    return Bound(metric=found[1], at_most=found[2].startswith("<"), value=value)


def ask_until(
    ask: Ask,
    cases: Sequence[Case],
    bound: Bound,
    *,
    counts: Callable[[Case], bool],
    name: str,
    seed: int,
    level: float,
) -> tuple[RunResult, Stopping]:
    """Ask look after look until the rate over the cases that `counts` is known to lie on one side of `bound`.

    Cases that do not count (harmless twins) are asked along, in their turn. The result holds what was asked alone.
    """
    results, asked = list[RunResult](), list[Case]()
    state = settled(bound, (), {}, level)
    for number, look in enumerate(looks(in_random_order(cases, seed)), 1):
        results.append(ask(look, number))
        asked += look
        outcomes = {k: o for r in results for k, o in r.outcomes.items()}
        state = settled(bound, [c for c in asked if counts(c)], outcomes, level)
        if state[0] != "open" or results[-1].stopped_early:
            break
    answer, interval = state
    stopping = Stopping(
        suite=name,
        bound=str(bound),
        answer=answer,
        asked=len(asked),
        of=len(cases),
        looks=len(results),
        interval=interval,
    )
    return _joined(results), stopping


def settled(bound: Bound, cases: Sequence[Case], outcomes: dict[str, Outcome], level: float) -> tuple[Answer, Interval]:
    """What is known of the bound after these cases, with the interval that says so."""
    scored = [(o.value, c.behaviour or c.id) for c in cases if isinstance(o := outcomes[c.id], Scored)]
    means = cluster_means([v for v, _ in scored], [b for _, b in scored])
    safer: Safer = "lower" if bound.at_most else "higher"
    found = may_stop(round(float(means.sum()), 9), means.size, bound.value, safer, level)
    answers: dict[str, Answer] = {"pass": "holds", "fail": "does not hold", "go on": "open"}
    return answers[found.verdict], found.interval


def in_random_order(cases: Sequence[Case], seed: int) -> list[list[Case]]:
    """Behaviours in an order that their hash and the seed decide, each with all its cases."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.behaviour or case.id, []).append(case)
    return [groups[key] for key in sorted(groups, key=lambda k: hashlib.sha256(f"{seed}/{k}".encode()).digest())]


def looks(groups: Sequence[Sequence[Case]]) -> Iterator[list[Case]]:
    """The cases of each look: whole behaviours, at least 32 cases, and half as many as were asked so far."""
    asked, look = 0, list[Case]()
    for group in groups:
        look += group
        if len(look) >= max(FIRST_LOOK, asked * (GROWTH - 1)):
            yield look
            asked, look = asked + len(look), []
    if look:
        yield look


def _joined(results: Sequence[RunResult]) -> RunResult:
    last = results[-1]
    usage = last.usage
    for other in results[:-1]:
        usage += other.usage
    return replace(
        last,
        outcomes={k: o for r in results for k, o in r.outcomes.items()},
        completions={k: c for r in results for k, c in r.completions.items()},
        usage=usage,
        seconds=sum(r.seconds for r in results),
        earlier_logs=tuple(r.log_path for r in results[:-1]),
    )
