"""Several judges of the same answers: what each makes of a suite, and how often they differ, by language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

from fivefold.errors import UsageError
from fivefold.evaluate.suites import Suite
from fivefold.score.protocol import Scorer
from fivefold.stats import Agreement, agreement
from fivefold.thread.asking import Asker
from fivefold.thread.judging import judge_named
from fivefold.types import Case, Completion, Errored, Measurement, Outcome, digest

METRIC = "judge_disagreement"
OPEN_AT_ONCE = 64
"""Answers in front of a judge that asks a model; they meet in one batch."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two judges on the answers in one language (`all` over all)."""

    first: str
    second: str
    language: str
    found: Agreement
    record: str


def compare_judges(
    asker: Asker, suite: Suite, cases: Sequence[Case], specs: Sequence[str]
) -> tuple[list[Compared], list[Measurement]]:
    """Every pair of judges on the model's answers to `cases`, over all and by language; the rates of disagreement are
    recorded. The suite's own judge is the first where a single one is named. Answers that were given before, with the
    same settings, are not asked again."""
    names = list(dict.fromkeys(specs if len(set(specs)) > 1 else (suite.scorer, *specs)))
    if len(names) < 2:
        raise UsageError("judges disagree with one another", expected="two judges", got=", ".join(names))
    answered = asker.ask(suite, cases, "judges").completions
    judges = {name: judge_named(name, asker.store) for name in names}
    said = {name: judged(judge, cases, answered) for name, judge in judges.items()}
    rows: list[Compared] = []
    made: list[Measurement] = []
    for a, b in combinations(names, 2):
        for language in ("all", *sorted({c.language for c in cases})):
            mine = [c for c in cases if language in ("all", c.language)]
            found = _agreement(said[a], said[b], mine)
            kept = asker.store.add_measurement(
                _measured(asker, suite, mine, found, (a, b), language, digest([judges[a].digest, judges[b].digest]))
            )
            made.append(kept)
            rows.append(Compared(first=a, second=b, language=language, found=found, record=kept.id))
    return rows, made


def judged(judge: Scorer, cases: Sequence[Case], answered: Mapping[str, Completion]) -> dict[str, Outcome]:
    """Outcomes of one judge by case; a case without an answer is Errored."""

    def one(case: Case) -> Outcome:
        answer = answered.get(case.id)
        return judge(case, answer) if answer else Errored(error="there is no answer", judge=judge.digest)

    if not getattr(judge, "slow", False):
        return {c.id: one(c) for c in cases}
    with ThreadPoolExecutor(OPEN_AT_ONCE) as pool:
        return dict(zip([c.id for c in cases], pool.map(one, cases), strict=True))


def _agreement(first: Mapping[str, Outcome], second: Mapping[str, Outcome], cases: Sequence[Case]) -> Agreement:
    ids = [c.id for c in cases]
    clusters = {c.id: c.behaviour or c.id for c in cases}
    return agreement({i: first[i] for i in ids}, {i: second[i] for i in ids}, clusters=clusters)


def _measured(
    asker: Asker,
    suite: Suite,
    cases: Sequence[Case],
    found: Agreement,
    judges: tuple[str, str],
    language: str,
    judge: str,
) -> Measurement:
    slice = {"suite": suite.name, "judges": " | ".join(judges)}
    return Measurement(
        metric=METRIC,
        subject=asker.model.fingerprint,
        subject_name=asker.name,
        estimate=found.disagree.estimate,
        low=found.disagree.low,
        high=found.disagree.high,
        level=found.disagree.level,
        n_scored=found.n,
        n_unscored=len(cases) - found.n,
        slice=slice if language == "all" else {**slice, "language": language},
        dataset=digest(list(cases)),
        judge=judge,
        method=found.disagree.method,
        run=asker.run,
        metadata={"suite": suite.name, "kappa": found.kappa, "by": found.by, "rates": list(found.rates)},
    )
