"""One discipline at a time: what `evaluate`, `redteam`, `interpret`, `align` and `guard check` do outside a plan.

Every call records what it measured in the same store, under a run of its own, so that single commands and whole runs
can
be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from fivefold.engine.serving import Budget
from fivefold.errors import UnknownNameError, UsageError
from fivefold.evaluate.cases import read_cases
from fivefold.evaluate.catalogue import Entry, resolve
from fivefold.evaluate.early import parse_bound
from fivefold.evaluate.outside import JUDGES, evaluate_outside
from fivefold.evaluate.run import EvaluationResult, evaluate
from fivefold.evaluate.safety._base import Evaluation
from fivefold.evaluate.safety._measure import evaluate_safety
from fivefold.evaluate.suites import Suite, suite, suite_names
from fivefold.evidence import Store
from fivefold.redteam import kept
from fivefold.redteam.budget import SpendCap
from fivefold.redteam.campaign import Assault, Tried, run_campaign
from fivefold.redteam.cost import cost_of
from fivefold.redteam.findings import findings_from
from fivefold.redteam.helpers import require_helpers
from fivefold.redteam.names import parse
from fivefold.redteam.protocol import Attack, AttackBudget, own_cases
from fivefold.runtime.cached import CachedModel
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Capability, Cost, Model
from fivefold.score.protocol import Scorer
from fivefold.stats import measure_rate
from fivefold.thread.accept import against_accepted
from fivefold.thread.asking import Asker
from fivefold.thread.attack import CODE, RULES, corrected_success, heat, helpers_of, judge_of_answers, judged_by
from fivefold.thread.contaminate import at_risk
from fivefold.thread.harmbench import cases_of as harmbench_cases
from fivefold.thread.injection_data import NAMES as INJECTION_DATA
from fivefold.thread.injection_data import injection_cases
from fivefold.thread.judge_error import known_error
from fivefold.thread.judging import is_model, judge_named
from fivefold.thread.outcomes import keep
from fivefold.thread.plan import parse_minutes
from fivefold.thread.rates import known_rates
from fivefold.thread.steps import code_digest
from fivefold.types import Case, Errored, Exchange, Message, ModelVersion, Scored, Split, Stage, Verdict, digest, plain

DEFAULT_SUITE = "core-harms"
"""Whose behaviours an attack asks for that brings none of its own."""
PUBLIC = ("harmbench", *INJECTION_DATA)
"""Public data that `redteam --suite` takes from the mirror, beside the shipped suites."""


def evaluate_model(
    spec: str,
    names: Sequence[str],
    *,
    cases: Path | None,
    scorer: str | None,
    split: str | None,
    languages: Sequence[str] | None,
    limit: int | None,
    max_new_tokens: int | None,
    seed: int,
    stop: Sequence[str] | None = None,
    stop_when: str | None = None,
    dtype: str | None = None,
    budget: Budget | None = None,
    args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate one model on suites or on a file of cases; measurements and outcomes are recorded, and compared with the
    last accepted run if there is one.

    `stop_when` ends asking when that bound is settled; `dtype` is of local models; `budget` is shared by all suites;
    `args` are options of a benchmark, or arguments of a task that runs outside.
    """
    if bool(names) == (cases is not None):
        raise UsageError(
            "name suites or give --cases, one of the two",
            expected=f"suites: {', '.join(suite_names())}",
            next_step="fivefold evaluate core-harms --model smollm2",
        )
    given = dict(args or {})
    chosen = [resolve(name, own_judge=any(key in JUDGES for key in given), **given) for name in names]
    own = read_cases(cases)[:limit] if cases else ()
    bound = parse_bound(stop_when) if stop_when else None
    model = load(spec, **({"dtype": dtype} if dtype else {}))
    with Store.open() as store:
        asked = {"names": list(names), "cases": digest(own), "split": split, "limit": limit, "languages": languages}
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "stop": stop,
            "subject": model.fingerprint,
        }
        settings |= {"stop_when": str(bound)} if bound else {}
        settings |= {"args": given} if given else {}
        run = _run_name("evaluate", spec, {**asked, **settings})
        common: dict[str, Any] = {
            "log_dir": store.home / "runs" / run / "logs",
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "run": run,
            "store": store,
            "cache": store,
            "stop": tuple(stop) if stop else None,
            "budget": budget,
        }
        _record(store, model, spec, run)
        if own:
            judge = judge_named(scorer, store) if scorer and not is_model(scorer) else scorer
            known: dict[str, Any] = {"stop_when": bound, "error_of": partial(known_error, store)}
            results = [evaluate(model, own, scorer=judge, name=Path(str(cases)).stem, **known, **common)]
        else:
            selection: dict[str, Any] = {"split": _split(split), "languages": languages, "limit": limit}
            selection["stop_when"] = bound
            results = [_evaluate_named(model, what, selection, common, given) for what in chosen]
        for result in results:
            keep(store, result, run=run)
        comparison = against_accepted(store, run)
        risks = [line for r in results for line in at_risk(store, r.name)]
    return {
        "run": run,
        "model": spec,
        "measurements": [m for r in results for m in (*r.measurements, *r.corrected)],
        "findings": [],
        "logs": [str(path) for r in results for path in (*r.earlier_logs, r.log_path)],
        "stopping": [{**vars(r.stopping), "early": r.stopping.early} for r in results if r.stopping],
        "without_score": _without_score(results),
        "over_budget": [r.name for r in results if r.stopped_early],
        "comparison": comparison,
        "at_risk": risks,
    }


def _without_score(results: Sequence[EvaluationResult]) -> list[dict[str, Any]]:
    """Why cases have no score, errors first and then the most frequent reason, with one case of each."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for result in results:
        for id, outcome in result.outcomes.items():
            if not isinstance(outcome, Scored):
                why = outcome.error if isinstance(outcome, Errored) else outcome.reason
                found.setdefault((result.name, outcome.kind, why), []).append(id)
    rows = [
        {"suite": suite, "kind": kind, "why": why, "n": len(ids), "case": ids[0]}
        for (suite, kind, why), ids in found.items()
    ]
    return sorted(rows, key=lambda row: (row["kind"] != "errored", -int(str(row["n"]))))


@contextmanager
def asker_for(spec: str, label: str) -> Iterator[Asker]:
    """A model that is asked the same cases several times, with the store open around it."""
    model = load(spec)
    with Store.open() as store:
        run = _run_name(label, spec, {"subject": model.fingerprint})
        _record(store, model, spec, run)
        yield Asker(model=model, store=store, run=run, name=spec)


def _evaluate_named(
    model: Model,
    what: Suite | Evaluation | Entry,
    selection: Mapping[str, Any],
    common: Mapping[str, Any],
    args: Mapping[str, Any],
) -> EvaluationResult:
    """One suite, benchmark or safety evaluation of ours, or an entry that runs outside (splits, languages and stopping
    early are of suites alone)."""
    if isinstance(what, Suite):
        return evaluate(model, what, **common, **selection)
    if selection["stop_when"]:
        raise UsageError(f"{what.name} cannot stop early", expected="a suite, a benchmark of ours, or --cases")
    if isinstance(what, Evaluation):
        if selection["split"] or selection["languages"]:
            raise UsageError(
                f"{what.name} has no splits and is in English", next_step="leave --split and --language out"
            )
        return evaluate_safety(model, what, limit=selection["limit"], **common)
    return evaluate_outside(model, what, limit=selection["limit"], args=args, **common)


def attack_model(
    spec: str,
    attacks: Sequence[str],
    *,
    suite_name: str | None,
    cases: Path | None,
    split: str,
    language: str,
    limit: int | None,
    queries: int,
    steps: int,
    budget: str | None,
    seed: int,
    attacker: str | None = None,
    judge_name: str | None = None,
    classifier: Scorer | None = None,
    cap: SpendCap | None = None,
    max_new_tokens: int = 40,
    notes: Sequence[str] = (),
    on_cost: Callable[[Cost], None] | None = None,
) -> dict[str, Any]:
    """Attack one model; successes become findings in the store, every attempt an artifact of it.

    Without a suite or cases, an attack that brings behaviours of its own uses those, the others core-harms. A
    `classifier` judges in place of `judge_name`. `on_cost` hears what is to be expected before anything is asked, with
    minutes for a model on this machine. Success is measured for each attack and language apart.
    """
    if not attacks:
        raise UsageError("no attack was named", next_step="fivefold list attacks")
    pool = _pool(suite_name, cases, split, limit)
    with Store.open() as store:
        helpers = helpers_of(attacker, judge_name, store)
        parsed = [parse(text, helpers=helpers) for text in attacks]
        for attack, _ in parsed:
            require_helpers(attack)
        model = load(spec)
        target = CachedModel(model, store)
        settings = {"attacks": list(attacks), "split": split, "limit": limit, "queries": queries}
        asked = {k: v for k, v in {"attacker": attacker, "judge": judge_name, "cap": cap}.items() if v is not None}
        run = _run_name("redteam", spec, {**settings, **asked})
        _record(store, model, spec, run)
        limits = AttackBudget(queries=queries, steps=steps, max_new_tokens=max_new_tokens)
        assaults = [Assault(attack=a, cases=pool(a, at or language), budget=limits) for a, at in parsed]
        if on_cost is not None:
            on_cost(_timed(_expected(assaults), model))
        judge = classifier or judge_of_answers(judge_name)
        deadline = time.monotonic() + parse_minutes(budget) * 60 if budget else None
        campaign = run_campaign(target, assaults, judge, seed=seed, deadline=deadline, cap=cap)
        artifact = store.put_artifact(
            kept.dump({spec: campaign.tried}), name="redteam.json", media_type="application/json", run=run
        )
        taxonomies = {a.attack.name: a.attack.taxonomy for a in assaults}
        source = getattr(classifier, "source", "") or judge_name or RULES
        found = findings_from(campaign.tried, subject=model.fingerprint, run=run, taxonomies=taxonomies, judge=source)
        findings = [store.add_finding(f) for f in found]
        slices = _by_language(campaign.tried)
        made = [
            store.add_measurement(
                measure_rate(
                    [t.outcome for t in tried],
                    metric="attack_success",
                    subject=model.fingerprint,
                    subject_name=spec,
                    safer="lower",
                    clusters=[t.case.behaviour or t.case.id for t in tried],
                    slice={"attack": name, "language": at, **_part_of(tried, suite_name or DEFAULT_SUITE, split)},
                    dataset=digest([t.case for t in tried]),
                    code=code_digest(CODE),
                    judge=_who_judged(judge, tried),
                    run=run,
                )
            )
            for (name, at), tried in slices.items()
        ]
        made += corrected_success(store, made, slices, judge)
    return {
        "run": run,
        "model": spec,
        "measurements": made,
        "findings": findings,
        "heat": heat(campaign.tried),
        "queries": campaign.queries,
        "seconds": campaign.seconds,
        "tokens": campaign.tokens,
        "helper_tokens": campaign.helper_tokens,
        "tried": artifact.digest,
        "left_out": list(campaign.stopped_early),
        "notes": [*campaign.notes, *notes],
    }


def _by_language(tried: Sequence[Tried]) -> dict[tuple[str, str], list[Tried]]:
    """Results by attack and language, which an attack's name does not say."""
    found: dict[tuple[str, str], list[Tried]] = {}
    for t in tried:
        found.setdefault((t.attack, t.case.language), []).append(t)
    return found


def _part_of(tried: Sequence[Tried], suite_name: str, split: str) -> dict[str, str]:
    """The split as a part of a slice, where the behaviours come from a shipped suite: others have none."""
    shipped = suite_name in suite_names() and all(t.case.suite == suite_name for t in tried)
    return {"split": split} if shipped else {}


def _who_judged(judge: Scorer, tried: Sequence[Tried]) -> str:
    """The judge's digest; where checks of an attack's own told its success, that of these."""
    if judged_by(judge, tried):
        return judge.digest
    return digest(sorted({a.outcome.judge for t in tried for a in t.attempts if isinstance(a.outcome, Scored)}))


def _timed(cost: Cost, model: Model) -> Cost:
    """With the minutes that a model on this machine takes."""
    if Capability.GRADIENTS not in model.capabilities:
        return cost
    rates = known_rates()
    return replace(cost, minutes=rates.minutes(cost), notes=(*cost.notes, rates.source))


def _expected(assaults: Sequence[Assault]) -> Cost:
    """What all attacks are expected to take, with the models that help them."""
    total = Cost()
    for a in assaults:
        helpers = len(getattr(a.attack, "helpers", {}))
        total += cost_of(a.attack, a.budget, behaviours=len(a.cases), helpers=helpers)
    return total


def check_text(text: str, names: Sequence[str] | None, *, stage: str) -> list[Verdict]:
    """What each guard says of one text."""
    from fivefold.registry import registry

    if stage not in get_args(Stage):
        raise UnknownNameError("stage", stage, get_args(Stage))
    known = registry("guard")
    exchange = Exchange(
        messages=(Message(role="user", content=text),),
        answer=text if stage == "output" else None,
        stage=cast(Stage, stage),
    )
    chosen = names or [n for n in known.names() if getattr(known.module(n), "READY", False)]
    return [known.module(n).guard().check([exchange])[0] for n in chosen]


def _pool(
    suite_name: str | None, cases: Path | None, split: str, limit: int | None
) -> Callable[[Attack, str], tuple[Case, ...]]:
    """Which behaviours an attack gets in a language."""
    if suite_name in PUBLIC and cases is None:
        public = harmbench_cases(limit) if suite_name == "harmbench" else injection_cases(suite_name, limit=limit)
        return lambda attack, language: public

    def pool(attack: Attack, language: str) -> tuple[Case, ...]:
        own = own_cases(attack, language)[:limit] if suite_name is None and cases is None else ()
        return own or tuple(_behaviours(suite_name or DEFAULT_SUITE, cases, split, limit)(language))

    return pool


def _behaviours(suite_name: str, cases: Path | None, split: str, limit: int | None) -> Any:
    if cases is not None:
        own = tuple(read_cases(cases))[:limit]
        return lambda language: own
    chosen, part = suite(suite_name), _split(split)

    def pool(language: str) -> tuple[Case, ...]:
        found = chosen.cases(languages=[language], split=part, limit=limit)
        if not found:
            raise UsageError(f"{suite_name} has no {part} cases in {language!r}", expected=", ".join(chosen.languages))
        return found

    return pool


def _split(split: str | None) -> Split | None:
    if split is not None and split not in get_args(Split):
        raise UnknownNameError("split", split, get_args(Split))
    return cast("Split | None", split)


def _record(store: Store, model: Model, spec: str, run: str) -> None:
    if model.fingerprint not in {v.id for v in store.versions()}:
        store.add_version(ModelVersion(id=model.fingerprint, name=model.name, kind="base", source=spec, created_by=run))


def _run_name(command: str, spec: str, parameters: Mapping[str, Any]) -> str:
    return f"{command}-{digest({'model': spec, **plain(parameters)})[:8]}"  # type: ignore[dict-item]
