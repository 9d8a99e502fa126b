"""What a run found on each case, in one form: for runs of a plan, single evaluations, and imported results alike.

Everything that compares, exports or analyses by case reads this, so that it does not matter where a run came from. An
imported run is marked as external with the tool and the file it came from: it is evidence of what somebody said, not of
what was measured here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fivefold.errors import UnknownNameError
from fivefold.evaluate.catalogue import benchmark
from fivefold.evaluate.run import EvaluationResult
from fivefold.evaluate.suites import Suite, suite, suite_names
from fivefold.evidence import Store
from fivefold.evidence.chain import Record
from fivefold.registry import registry
from fivefold.types import Case, Measurement, Outcome, Safer, digest, outcome_from_json, plain

KIND = "outcomes"
MINUTES = "human_minutes"
"""Key of a case's metadata that says how many minutes a person needs for it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case of a run. `case` is the digest of what was asked, "" where it is not known; `minutes` is human time."""

    outcome: Outcome
    behaviour: str = ""
    category: str = ""
    language: str = ""
    minutes: float | None = None
    case: str = ""


@dataclass(frozen=True, kw_only=True)
class SuiteOutcomes:
    """A run's outcomes on one suite. `settings` and `judge` are what must agree for two runs to be comparable;
    `external` names the tool that an imported run comes from, "" for our own."""

    run: str
    suite: str
    metric: str
    safer: Safer
    subject: str
    subject_name: str
    judge: str
    rows: Mapping[str, Row]
    settings: Mapping[str, Any] = field(default_factory=dict)
    external: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    record: str = ""


def keep(store: Store, result: EvaluationResult, *, run: str) -> list[SuiteOutcomes]:
    """Record what an evaluation found, case by case; of an outside task each scorer by itself, of a safety evaluation each
    metric under each condition."""
    main = result.measurements[0]
    if not result.cases:
        by_case = _of_outside if "task" in main.metadata else _of_episodes
        return [add(store, found) for found in by_case(result, run)]
    facts = {case.id: case for case in result.cases}
    twins = _twins(result.name)
    rows = {i: row_of(o, facts.get(i)) for i, o in result.outcomes.items() if i not in twins}
    found = SuiteOutcomes(
        run=run,
        suite=result.name,
        metric=main.metric,
        safer=main.safer,
        subject=main.subject,
        subject_name=main.subject_name,
        judge=main.judge,
        rows=rows,
        settings=dict(main.metadata.get("settings", {})),
    )
    return [add(store, found)]


def _of_outside(result: EvaluationResult, run: str) -> list[SuiteOutcomes]:
    """Outcomes of tasks that run outside, whose keys are `task/scorer/sample`: one entry a measurement."""
    out = []
    for m in result.measurements:
        prefix = f"{m.metadata['task']}/{m.metric.removeprefix(f'{result.name}/')}/"
        mine = {k.removeprefix(prefix): o for k, o in result.outcomes.items() if k.startswith(prefix)}
        out.append(
            SuiteOutcomes(
                run=run,
                suite="/".join((m.metric, *m.slice.values())),
                metric=m.metric,
                safer=m.safer,
                subject=m.subject,
                subject_name=m.subject_name,
                judge=m.judge,
                rows={i: Row(outcome=o, behaviour=i.partition("#")[0]) for i, o in mine.items()},
                settings=dict(m.metadata.get("settings", {})),
            )
        )
    return out


def _of_episodes(result: EvaluationResult, run: str) -> list[SuiteOutcomes]:
    """Outcomes of episodes, whose keys are `scenario/condition/metric`: one entry a metric and condition."""
    return [
        SuiteOutcomes(
            run=run,
            suite="/".join((result.name, m.metric, m.slice["condition"])),
            metric=m.metric,
            safer=m.safer,
            subject=m.subject,
            subject_name=m.subject_name,
            judge=m.judge,
            rows=_scenarios(result.outcomes, f"/{m.slice['condition']}/{m.metric}"),
            settings=dict(m.metadata.get("settings", {})),
        )
        for m in result.measurements
        if set(m.slice) == {"condition"}
    ]


def _scenarios(outcomes: Mapping[str, Outcome], ending: str) -> dict[str, Row]:
    found = {key.removesuffix(ending): o for key, o in outcomes.items() if key.endswith(ending)}
    return {scenario: Row(outcome=outcome, behaviour=scenario) for scenario, outcome in found.items()}


def add(store: Store, found: SuiteOutcomes) -> SuiteOutcomes:
    """Put outcomes into the store: the rows as an artifact, the rest as a record that names it."""
    lines = (json.dumps({"id": id, **_row_json(row)}, ensure_ascii=False) for id, row in found.rows.items())
    name = f"outcomes-{found.suite.replace('/', '-')}.jsonl"
    kept = store.put_artifact("\n".join(lines).encode(), name=name, media_type="application/jsonl", run=found.run)
    skipped = ("rows", "record", "run")
    body = {key: plain(value) for key, value in vars(found).items() if key not in skipped}
    record = store.append_once(KIND, {**body, "rows": kept.digest, "n": len(found.rows)}, run=found.run)
    return SuiteOutcomes(**{**vars(found), "record": record.id})


def load(store: Store, name: str) -> list[SuiteOutcomes]:
    """Outcomes of RUN or RUN:VERSION (a version of a plan's run; `base` when left out), one entry a suite.

    UnknownNameError suggests the nearest run.
    """
    run, _, version = name.partition(":")
    latest = {r.body["suite"]: r for r in store.records(KIND, run)} if not version else {}
    if latest:
        return [_read(store, record) for record in latest.values()]
    version = version or "base"
    steps = [r for r in store.records("step", run) if r.body["name"] == f"evaluate {version}"]
    if not steps:
        raise UnknownNameError("run", name, known_runs(store), next_step="fivefold measurements lists runs")
    return _of_step(store, steps[-1], version)


def known_runs(store: Store) -> list[str]:
    """Names that `load` takes."""
    steps = [r for r in store.records("step") if r.body["name"].startswith("evaluate ")]
    of_plans = [f"{r.run}:{r.body['name'].removeprefix('evaluate ')}" for r in steps]
    return list(dict.fromkeys([*of_plans, *(r.run for r in store.records(KIND))]))


def row_of(outcome: Outcome, case: Case | None) -> Row:
    """A row from an outcome and its case, where the case is known."""
    if case is None:
        return Row(outcome=outcome)
    minutes = case.metadata.get(MINUTES)
    return Row(
        outcome=outcome,
        behaviour=case.behaviour,
        category=case.category,
        language=case.language,
        minutes=float(minutes) if isinstance(minutes, int | float) and not isinstance(minutes, bool) else None,
        case=digest([case.messages, case.choices, case.target]),
    )


def cases_by_id(name: str) -> dict[str, Case]:
    """Cases of a suite or benchmark that is here; none when it is not (a file of the user's, an outside task)."""
    found: Suite | None = None
    if name in suite_names():
        found = suite(name)
    elif name in registry("benchmark").names() and not benchmark(name).missing():
        found = benchmark(name).suite(name)
    return {} if found is None else {c.id: c for c in (*found.all_cases, *found.benign)}


def _read(store: Store, record: Record) -> SuiteOutcomes:
    body = dict(record.body)
    text = store.artifact(body.pop("rows")).read_text(encoding="utf-8")
    body.pop("n", None)
    rows = {}
    for line in text.splitlines():
        data = json.loads(line)
        id = data.pop("id")
        rows[id] = Row(**{**data, "outcome": outcome_from_json(data["outcome"])})
    return SuiteOutcomes(**body, rows=rows, run=record.run, record=record.id)


def _row_json(row: Row) -> dict[str, Any]:
    body = {key: plain(value) for key, value in vars(row).items()}
    return {key: value for key, value in body.items() if value not in ("", None)}


def _of_step(store: Store, step: Record, version: str) -> list[SuiteOutcomes]:
    measured = [m for m in store.measurements(run=step.run) if m.subject_name == version and not m.slice]
    out = []
    for name, outcomes in step.body["result"]["outcomes"].items():
        chosen, facts, twins = suite(name), cases_by_id(name), _twins(name)
        main = _main(measured, chosen)
        out.append(
            SuiteOutcomes(
                run=step.run,
                suite=name,
                metric=chosen.metric,
                safer=chosen.safer,
                subject=main.subject if main else version,
                subject_name=version,
                judge="",  # a guarded version's judge differs from the base's by its guards: that is what is compared
                rows={i: row_of(outcome_from_json(o), facts.get(i)) for i, o in outcomes.items() if i not in twins},
                settings=dict(main.metadata.get("settings", {})) if main else {},
                record=step.id,
            )
        )
    return out


def _twins(name: str) -> frozenset[str]:
    """Ids of a suite's harmless twins, which do not count for its metric."""
    return frozenset(c.id for c in suite(name).benign) if name in suite_names() else frozenset()


def _main(measured: Sequence[Measurement], chosen: Suite) -> Measurement | None:
    return next((m for m in measured if m.metric == chosen.metric and m.corrects is None), None)
