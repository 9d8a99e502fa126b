"""Asks one model the same cases several times, in several forms, for the analyses that need more than one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fivefold.errors import UsageError
from fivefold.evaluate.catalogue import Entry, resolve
from fivefold.evaluate.run import EvaluationResult, evaluate
from fivefold.evaluate.safety._base import Evaluation
from fivefold.evaluate.suites import Suite
from fivefold.evaluate.variants import form, forms_for
from fivefold.evidence import Store
from fivefold.runtime.protocol import Model
from fivefold.stats import Reliability, Sensitivity, reliability, sensitivity
from fivefold.types import Case, Measurement, Outcome, Scored, Split, digest


@dataclass(frozen=True, kw_only=True)
class Asker:
    """A model with the store and the run that its answers belong to. What was asked before is not asked again."""

    model: Model
    store: Store
    run: str
    name: str
    max_new_tokens: int | None = None

    def ask(
        self, suite: Suite, cases: Sequence[Case], label: str, *, temperature: float = 0.0, seed: int = 0
    ) -> EvaluationResult:
        """Outcomes of `cases` by the suite's scorer; measurements of it are not recorded."""
        result = evaluate(
            self.model,
            cases,
            scorer=suite.scorer,
            name=f"{suite.name}-{label}".replace(" ", "-"),
            log_dir=self.store.home / "runs" / self.run / "logs",
            max_new_tokens=self.max_new_tokens or suite.max_new_tokens,
            stop=suite.stop,
            temperature=temperature,
            seed=seed,
            subject_name=self.name,
            run=self.run,
            cache=self.store,
        )
        return result


def chosen_cases(
    name: str, *, limit: int | None, split: Split | None = None, languages: Sequence[str] | None = None
) -> tuple[Suite, tuple[Case, ...]]:
    """A suite or benchmark of ours and its cases; UsageError for what runs outside."""
    found = resolve(name)
    if isinstance(found, Entry):
        raise UsageError(f"{name} runs in {found.runs}, so its cases are not ours to vary")
    if isinstance(found, Evaluation):
        raise UsageError(f"{name} plays scenes, which have no form to vary", expected="a suite or a benchmark of ours")
    return found, found.cases(languages=languages, split=split, limit=limit)


def sensitivity_of(
    asker: Asker, suite: Suite, cases: Sequence[Case], forms: Sequence[str] = ()
) -> tuple[Sensitivity, Measurement]:
    """The suite under every form that changes it. Multiple choice by likelihood adds the other normalisation (`summed`:
    by total instead of by byte). The mean over forms is recorded as a measurement of its own, with the rates."""
    rows: dict[str, dict[str, Outcome]] = {}
    for name in forms or forms_for(cases):
        result = asker.ask(suite, [form(c, name) for c in cases], f"form-{name}")
        rows[name] = dict(result.outcomes)
        if suite.scorer == "choice":
            rows[f"{name}, summed"] = {i: _summed(o) for i, o in result.outcomes.items()}
    found = sensitivity(rows)
    extra: dict[str, Any] = {
        "rates": dict(found.rates),
        "spread": found.spread,
        "between": found.between,
        "unstable": found.unstable,
        "p_value": found.p_value,
        "lost": found.lost,
    }
    measured = Measurement(
        metric=f"{suite.metric}_over_forms",
        subject=asker.model.fingerprint,
        subject_name=asker.name,
        estimate=found.mean.estimate,
        low=found.mean.low,
        high=found.mean.high,
        level=found.mean.level,
        n_scored=found.n,
        n_unscored=found.lost,
        safer=suite.safer,
        slice={"suite": suite.name},
        dataset=digest(list(cases)),
        method=found.mean.method,
        run=asker.run,
        metadata={"suite": suite.name, **extra, **({"reason": found.mean.reason} if found.mean.reason else {})},
    )
    return found, asker.store.add_measurement(measured)


def reliability_of(
    asker: Asker, suite: Suite, cases: Sequence[Case], *, samples: int, ks: Sequence[int], temperature: float, seed: int
) -> tuple[list[Reliability], list[Measurement]]:
    """`samples` answers to every case at `temperature`; for each k the chance of one success and of k. Success is the
    scorer's event where higher is safer or neither is, and its absence where lower is."""
    if temperature <= 0 and samples > 1:
        raise UsageError(
            "several greedy answers are the same answer",
            got=f"temperature {temperature:g}",
            next_step="--temperature 1",
        )
    if bad := [k for k in ks if not 1 <= k <= samples]:
        raise UsageError("k answers of as many samples at least", expected=f"1 to {samples}", got=bad[0])
    answers: dict[str, list[Outcome]] = {c.id: [] for c in cases}
    for i in range(samples):
        result = asker.ask(suite, cases, f"sample-{i}", temperature=temperature, seed=seed + i)
        for id, outcome in result.outcomes.items():
            answers[id].append(_success(outcome, suite))
    clusters = {c.id: c.behaviour or c.id for c in cases}
    found = [reliability(answers, k, clusters=clusters) for k in ks]
    settings = {"samples": samples, "temperature": temperature, "seed": seed}
    return found, [m for r in found for m in _measured(asker, suite, cases, r, settings)]


def _measured(
    asker: Asker, suite: Suite, cases: Sequence[Case], found: Reliability, settings: dict[str, Any]
) -> list[Measurement]:
    made = []
    for word, interval in (("any", found.any_of_k), ("all", found.all_of_k)):
        measured = Measurement(
            metric=f"{suite.metric}_success_{word}_of_{found.k}",
            subject=asker.model.fingerprint,
            subject_name=asker.name,
            estimate=interval.estimate,
            low=interval.low,
            high=interval.high,
            level=interval.level,
            n_scored=found.cases,
            n_unscored=len(found.left_out),
            safer="neither" if suite.safer == "neither" else "higher",
            slice={"suite": suite.name},
            dataset=digest(list(cases)),
            method=interval.method,
            run=asker.run,
            metadata={"suite": suite.name, "settings": settings},
        )
        made.append(asker.store.add_measurement(measured))
    return made


def _summed(outcome: Outcome) -> Outcome:
    return replace(outcome, value=float(outcome.metadata["acc"])) if isinstance(outcome, Scored) else outcome


def _success(outcome: Outcome, suite: Suite) -> Outcome:
    if isinstance(outcome, Scored) and suite.safer == "lower":
        return replace(outcome, value=1.0 - outcome.value)
    return outcome
