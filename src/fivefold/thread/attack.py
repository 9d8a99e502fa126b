"""Red-team steps: attack the base, keep findings; later replay them and attack again, knowing the patch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fivefold.errors import DataError, MissingExtraError
from fivefold.evaluate.suites import suite
from fivefold.evidence import Store
from fivefold.redteam import kept
from fivefold.redteam.budget import SpendCap
from fivefold.redteam.campaign import INSIDE, Assault, CampaignResult, Tried, run_campaign
from fivefold.redteam.cost import cost_of
from fivefold.redteam.curves import judge_counts, language_of, over_tried
from fivefold.redteam.findings import findings_from
from fivefold.redteam.helpers import ROLES, Helpers
from fivefold.redteam.names import parse
from fivefold.redteam.protocol import Attack, AttackBudget, Judge, own_cases
from fivefold.redteam.replay import replay
from fivefold.runtime.cached import CachedModel
from fivefold.runtime.protocol import Capability, Cost, Model
from fivefold.score.protocol import Scorer
from fivefold.stats import correct_rate, measure_rate
from fivefold.thread.context import VERSIONS, Context
from fivefold.thread.judge_error import known_error
from fivefold.thread.judging import files_of, is_model, judge_named, loaded
from fivefold.thread.mend import probe_penalties
from fivefold.thread.plan import AttackRun, Plan, RedteamPlan
from fivefold.thread.steps import Result, Step, code_digest
from fivefold.types import Case, Measurement, Outcome, Scored, digest, plain

CODE = ("runtime", "score", "redteam", "evaluate", "stats")
RULES = "refusal"
"""The judge where none is named."""


def judge_of_answers(name: str | None = None) -> Scorer:
    """The judge of harmful requests' answers: the shipped rules, or what `name` says (`judging.py`)."""
    return judge_named(name or RULES)


def helpers_of(attacker: str | None, judge: str | None, store: Any = None) -> Helpers:
    """The models that help attacks; a judge that is a model also reads what an attacker wrote."""
    reader = judge if judge is not None and is_model(judge) else None
    return Helpers(attacker=_helping(attacker, store), evaluator=_helping(reader, store))


def _helping(spec: str | None, store: Any) -> Model | None:
    if spec is None:
        return None
    model = loaded(spec)
    return CachedModel(model, store) if store is not None else model


def behaviours_for(part: RedteamPlan, attack: AttackRun, language: str | None) -> tuple[Case, ...]:
    """The behaviours that an attack gets: balanced over categories, the same for every model."""
    chosen = suite(part.suite).cases(
        languages=(language,) if language else attack.languages, split=part.split, limit=attack.behaviours
    )
    return tuple(chosen)


def assaults_of(
    part: RedteamPlan,
    *,
    white_box: bool,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    store: Any = None,
) -> tuple[list[Assault], list[str]]:
    """The plan's assaults, and what had to be left out because the target is closed. `extra` adds options by name."""
    assaults, left_out = [], []
    for run in part.attacks:
        options = {**run.options, **dict((extra or {}).get(run.name, {}))}
        helpers = helpers_of(run.attacker or part.attacker, part.judge, store)
        attack, language = parse(run.name, options, helpers=helpers)
        if lacking := getattr(attack, "lacking", ""):
            left_out.append(f"{attack.name}: {lacking}")
            continue
        if not white_box and (inside := INSIDE & attack.needs):
            lacking = ", ".join(sorted(c.value for c in inside))
            left_out.append(f"{attack.name}: needs {lacking}, which this model does not offer")
            continue
        budget = AttackBudget(queries=run.queries, steps=run.steps, max_new_tokens=part.max_new_tokens)
        own = [c for at in ((language,) if language else run.languages) for c in own_cases(attack, at)]
        cases = tuple(own[: run.behaviours]) or behaviours_for(part, run, language)
        assaults.append(Assault(attack=attack, cases=cases, budget=budget))
    return assaults, left_out


def measure_attacks(
    ctx: Context, version: str, tried: Sequence[Tried], judge: Scorer, *, behaviours: str
) -> list[Measurement]:
    """Attack success over everything and by attack, with intervals clustered by behaviour."""
    model = ctx.model(version)
    slices: dict[str, list[Tried]] = {"all": list(tried)}
    for item in tried:
        slices.setdefault(item.attack, []).append(item)
    made = []
    for name, items in slices.items():
        measurement = measure_rate(
            [i.outcome for i in items],
            metric="attack_success",
            subject=model.fingerprint,
            subject_name=version,
            safer="lower",
            clusters=[i.case.behaviour or i.case.id for i in items],
            slice={"attack": name, "behaviours": behaviours},
            dataset=digest([i.case for i in items]),
            code=code_digest(CODE),
            judge=judge.digest,
            run=ctx.run,
        )
        made.append(ctx.store.add_measurement(measurement))
    return made + corrected_success(ctx.store, made, slices, judge)


def corrected_success(
    store: Store, raw: Sequence[Measurement], slices: Mapping[Any, Sequence[Tried]], judge: Scorer
) -> list[Measurement]:
    """Attack success without the judge's error, for slices (in the order of `raw`) of one language in which that error
    is known: of the rules from the shipped labels, of any other judge from `fivefold stats judge-error`. An attack that
    gets several answers judged has as many chances of a false alarm. What an attack's own check told is left as it is:
    the judge had no part in it."""
    rules = judge.digest == judge_of_answers().digest
    out = []
    for m, tried in zip(raw, slices.values(), strict=True):
        if not judged_by(judge, tried):
            continue
        known = None if rules else known_error(store, judge, language_of(tried))
        counts = judge_counts(tried) if rules else over_tried(known.counts, tried) if known else None
        if counts is not None and m.measured:
            made = correct_rate(m, counts)
            out.append(store.add_measurement(known.noted(made) if known else made))
    return out


def judged_by(judge: Scorer, tried: Sequence[Tried]) -> bool:
    """Whether every verdict on these is this judge's, and none a check's."""
    verdicts = (a.outcome for t in tried for a in t.attempts)
    return all(o.judge == judge.digest for o in verdicts if isinstance(o, Scored))


def run_redteam(ctx: Context) -> Result:
    """Attack the base model; every weakness that is found becomes a finding with an id."""
    part = ctx.plan.redteam
    assert part is not None
    target, judge = ctx.model("base"), judge_of_answers(part.judge)
    white = Capability.GRADIENTS in target.capabilities
    assaults, left_out = assaults_of(part, white_box=white, store=ctx.store)
    campaign = _campaign(ctx, target, assaults, judge, part, part.minutes)
    taxonomies = {a.attack.name: a.attack.taxonomy for a in assaults}
    found = findings_from(
        campaign.tried, subject=target.fingerprint, run=ctx.run, taxonomies=taxonomies, judge=part.judge or RULES
    )
    kept = [ctx.store.add_finding(f) for f in found]
    made = measure_attacks(ctx, "base", campaign.tried, judge, behaviours="train")
    return {
        "findings": [f.id for f in kept],
        "measurements": [m.id for m in made],
        "tried": _keep_tried(ctx, "redteam", {"base": campaign}),
        "heat": {"base": heat(campaign.tried, "redteam/base")},
        "left_out": [*left_out, *campaign.stopped_early, *campaign.notes],
        "queries": campaign.queries,
    }


def run_replay(ctx: Context) -> Result:
    """Ask every finding's cases again of every version; states move by what is seen."""
    part = ctx.plan.redteam
    judge = judge_of_answers(part.judge if part else None)
    findings = [f for f in ctx.store.findings() if f.id in set(ctx.results["redteam"]["findings"])]
    measured: list[Measurement] = []
    rows: dict[str, dict[str, Any]] = {}
    for version in ctx.available():
        model = ctx.model(version)
        replayed = replay(findings, model, judge, max_new_tokens=_tokens(ctx))
        rows[version] = {
            r.finding.id: {"outcome": plain(r.outcome), "answers": [c.text for c in r.completions]} for r in replayed
        }
        measurement = measure_rate(
            [r.outcome for r in replayed],
            metric="findings_reproduced",
            subject=model.fingerprint,
            subject_name=version,
            safer="lower",
            dataset=digest([f.id for f in findings]),
            code=code_digest(CODE),
            judge=judge.digest,
            run=ctx.run,
        )
        measured.append(ctx.store.add_measurement(measurement))
    return {"measurements": [m.id for m in measured], "rows": rows}


def run_reattack(ctx: Context) -> Result:
    """Attack held-out behaviours again, on the base and on every mended version, with the same budget.

    Attacks on a guarded version go through its guards; the gradient attack optimises against the model and the guard's
    probe together, so it is adaptive in the sense of Tramèr et al. 2020 (arXiv 2002.08347).
    """
    part = ctx.plan.reattack
    assert part is not None
    judge = judge_of_answers(part.judge)
    white = Capability.GRADIENTS in ctx.model("base").capabilities
    penalties = probe_penalties(ctx) if white else []
    campaigns: dict[str, CampaignResult] = {}
    measured: list[Measurement] = []
    left_out: list[str] = []
    versions = ctx.available()
    for version in versions:
        known = {"gcg": {"penalties": list(penalties)}} if "guarded" in version and penalties else None
        assaults, out = assaults_of(part, white_box=white, extra=known, store=ctx.store)
        ctx.progress.say(f"re-attack of {version}")
        minutes = part.minutes / len(versions) if part.minutes else None
        campaigns[version] = _campaign(ctx, ctx.model(version), assaults, judge, part, minutes)
        measured += measure_attacks(ctx, version, campaigns[version].tried, judge, behaviours="held-out")
        left_out += [f"{version}: {o}" for o in (*out, *campaigns[version].stopped_early, *campaigns[version].notes)]
    return {
        "measurements": [m.id for m in measured],
        "tried": _keep_tried(ctx, "reattack", campaigns),
        "heat": {v: heat(c.tried, f"reattack/{v}") for v, c in campaigns.items()},
        "left_out": left_out,
        "queries": sum(c.queries for c in campaigns.values()),
    }


def heat(tried: Sequence[Tried], place: str = "") -> list[dict[str, Any]]:
    """Cells of the category × attack map, with counts of scored and errored behaviours, and the ids under which the
    report finds their transcripts; `place` tells stages and versions apart in those ids."""
    cells: dict[tuple[str, str, str], list[Tried]] = {}
    for item in tried:
        key = (item.case.category, item.attack, item.case.language)
        cells.setdefault(key, []).append(item)
    rows = []
    for (category, attack, language), items in sorted(cells.items()):
        outcomes: list[Outcome] = [item.outcome for item in items]
        m = measure_rate(outcomes, metric="attack_success", subject="", subject_name="", safer="lower")
        rows.append(
            {
                "category": category,
                "attack": attack,
                "language": language,
                "successes": sum(getattr(o, "value", 0.0) >= 0.5 for o in outcomes),
                "n": m.n_scored,
                "errored": m.n_errored,
                "unscored": m.n_unscored,
                "low": m.low,
                "high": m.high,
                "cases": [transcript_id(place, item.attack, item.case.id) for item in items if item.attempts],
            }
        )
    return rows


def transcript_id(place: str, attack: str, case: str) -> str:
    """The id of an attack's transcript in the report."""
    return f"{place}/{attack}/{case}"


def attack_cost(part: RedteamPlan | None, versions: int = 1) -> Cost:
    """Requests and tokens of a campaign, as each attack estimates them; nothing is loaded."""
    total = Cost()
    for run in part.attacks if part else ():
        assert part is not None
        budget = AttackBudget(queries=run.queries, steps=run.steps, max_new_tokens=part.max_new_tokens)
        behaviours = run.behaviours * len(run.languages) * versions
        helpers = int(bool(run.attacker or part.attacker))
        total += cost_of(_unhelped(run), budget, behaviours=behaviours, helpers=helpers)
    return total


def _unhelped(run: AttackRun) -> Attack | None:
    """The attack without the models that help it, which a factory would load; None when its data are not here."""
    options = {k: v for k, v in run.options.items() if k not in ROLES}
    try:
        return parse(run.name, options)[0]
    except (DataError, MissingExtraError):
        return None


def _campaign(
    ctx: Context, target: Any, assaults: Sequence[Assault], judge: Judge, part: RedteamPlan, minutes: float | None
) -> CampaignResult:
    limits = [t for t in (ctx.deadline, time.monotonic() + minutes * 60 if minutes else None) if t is not None]
    return run_campaign(
        target,
        assaults,
        judge,
        seed=ctx.plan.seed,
        deadline=min(limits) if limits else None,
        cap=SpendCap(queries=part.max_queries, tokens=part.max_tokens),
        on_progress=lambda done, total, note: ctx.progress.advance(done, total, note),
    )


def _keep_tried(ctx: Context, name: str, campaigns: Mapping[str, CampaignResult]) -> str:
    """Every attempt with its transcript as an artifact of the user's store; returns its digest."""
    data = kept.dump({version: campaign.tried for version, campaign in campaigns.items()})
    artifact = ctx.store.put_artifact(data, name=f"{name}.json", media_type="application/json", run=ctx.run)
    return artifact.digest


def _tokens(ctx: Context) -> int:
    return ctx.plan.redteam.max_new_tokens if ctx.plan.redteam else 40


def redteam_params(plan: Plan) -> Any:
    """What of the plan the red-team step reads."""
    return _params(plan.redteam)


def _params(part: RedteamPlan | None) -> Any:
    if part is None:
        return None
    files = files_of(part.judge)
    return {**part.model_dump(mode="json"), **({"judge_files": files} if files else {})}


REDTEAM = Step(
    name="redteam",
    title="Attack the base model",
    needs=("scan",),
    code=CODE,
    params=redteam_params,
    cost=lambda plan: attack_cost(plan.redteam),
    run=run_redteam,
    summary=lambda r: f"{len(r['findings'])} findings in {r['queries']} queries",
)


def replay_step(needs: tuple[str, ...]) -> Step:
    """The step that replays the findings on every version."""
    return Step(
        name="replay",
        title="Replay the findings on every version",
        needs=needs,
        code=CODE,
        params=redteam_params,
        cost=lambda plan: Cost(minutes=0.7),
        run=run_replay,
        summary=lambda r: ", ".join(
            f"{v} {sum(x['outcome'].get('value', 0) >= 0.5 for x in rows.values())}/{len(rows)}"
            for v, rows in r["rows"].items()
        ),
    )


def reattack_step(needs: tuple[str, ...]) -> Step:
    """The step that attacks held-out behaviours on every version, knowing the patch."""
    return Step(
        name="reattack",
        title="Attack held-out behaviours, knowing the patch",
        needs=needs,
        code=CODE,
        params=lambda plan: _params(plan.reattack),
        cost=lambda plan: attack_cost(plan.reattack, versions=len(VERSIONS)),
        run=run_reattack,
        summary=lambda r: f"{r['queries']} queries",
    )
