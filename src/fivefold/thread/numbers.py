"""Analyses of runs that are in the store: time horizon, items, and what a comparison could have found."""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.errors import UsageError
from fivefold.evidence import Store
from fivefold.stats import (
    Horizon,
    ItemAnalysis,
    complete_scores,
    item_analysis,
    time_horizon,
)
from fivefold.thread.outcomes import MINUTES, SuiteOutcomes, load
from fivefold.types import Measurement, Scored, digest


def horizon_of(
    store: Store,
    name: str,
    *,
    suite: str | None = None,
    chances: Sequence[float] = (0.5, 0.8),
    ridge: float | None = None,
    seed: int = 0,
) -> tuple[Horizon, list[Measurement]]:
    """Horizon of a run over all its cases that carry a human time (`metadata.human_minutes`), recorded. Cases of one
    behaviour are one task family. Where lower is safer, success is the absence of the event."""
    chosen = [s for s in load(store, name) if suite in (None, s.suite)]
    rows = [(s, id, row) for s in chosen for id, row in s.rows.items() if row.minutes is not None]
    if not rows:
        raise UsageError(
            f"no case of {name} carries a human time",
            expected=f'cases with "metadata": {{"{MINUTES}": 12.5}}',
            got=", ".join(s.suite for s in chosen) or f"no suite {suite}",
        )
    scored = [(s, id, row, row.outcome) for s, id, row in rows if isinstance(row.outcome, Scored)]
    found = time_horizon(
        [1 - o.value if s.safer == "lower" else o.value for s, _, _, o in scored],
        [float(row.minutes or 0) for _, _, row, _ in scored],
        chances=chances,
        clusters=[f"{s.suite}/{row.behaviour or id}" for s, id, row, _ in scored],
        ridge=ridge,
        seed=seed,
    )
    errored = sum(row.outcome.kind == "errored" for _, _, row in rows)
    first = chosen[0]
    made = [
        store.add_measurement(
            Measurement(
                metric=f"time_horizon_{chance * 100:g}",
                subject=first.subject,
                subject_name=first.subject_name,
                estimate=at.estimate,
                low=at.low,
                high=at.high,
                level=at.level,
                n_scored=len(scored),
                n_unscored=len(rows) - len(scored) - errored,
                n_errored=errored,
                unit="minutes",
                slice={"suite": suite} if suite else {},
                dataset=digest(sorted((s.suite, id) for s, id, _ in rows)),
                method=at.method,
                run=first.run,
                metadata={
                    "slope": found.slope,
                    "intercept": found.intercept,
                    "shortest": found.shortest,
                    "longest": found.longest,
                    **({"reason": at.reason} if at.reason else {}),
                },
            )
        )
        for chance, at in found.at.items()
    ]
    return found, made


def items_of(store: Store, names: Sequence[str], suite: str | None = None) -> tuple[str, ItemAnalysis, list[str]]:
    """Item analysis of one suite over several runs: its name, the analysis, and cases that not every run was scored
    on. Where lower is safer a case is passed when the event did not happen."""
    found = [(name, _one(load(store, name), name, suite)) for name in names]
    title = found[0][1].suite
    if other := next((s.suite for _, s in found if s.suite != title), None):
        raise UsageError("item analysis looks at one suite", got=f"{title} and {other}", next_step="--suite NAME")
    subjects = {name: _passed(s) for name, s in found}
    table, ids, left = complete_scores(subjects)
    return title, item_analysis(table, ids), left


def _one(found: Sequence[SuiteOutcomes], name: str, suite: str | None) -> SuiteOutcomes:
    chosen = [s for s in found if suite in (None, s.suite)]
    if len(chosen) != 1:
        got = ", ".join(s.suite for s in found)
        raise UsageError(f"{name} has {len(chosen)} suites to choose from", got=got, next_step="--suite NAME")
    return chosen[0]


def _passed(found: SuiteOutcomes) -> dict[str, float]:
    flip = found.safer == "lower"
    return {
        id: 1 - row.outcome.value if flip else row.outcome.value
        for id, row in found.rows.items()
        if isinstance(row.outcome, Scored)
    }
