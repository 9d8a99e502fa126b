"""`fivefold stats`: what a number means. Horizon, items and power from what is stored; the others ask a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from fivefold.cli.output import JsonFlag, LimitOption, ModelOption, console, measurement_json, print_json, table
from fivefold.errors import UsageError
from fivefold.types import Safer, plain

group = typer.Typer(help="What a number means: its reach, its spread, its errors.", no_args_is_help=True)
SuiteArgument = Annotated[str, typer.Argument(help="A suite or benchmark of ours (fivefold list suites).")]
SuiteOption = Annotated[str | None, typer.Option("--suite", help="Only this suite of the run.")]
LanguageOption = Annotated[list[str] | None, typer.Option("--language", help="en, ko, ja; may be repeated.")]
SeedOption = Annotated[int, typer.Option("--seed")]
JUDGES = (
    "A scorer with its options, refusal, classifier(model=PATH, positive=harmful) or policy(policy=FILE, model=M), or a "
    "model that judges by the rubric."
)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="stats")


@group.command()
def horizon(
    run: Annotated[str, typer.Argument(help="A run whose cases carry `human_minutes`.")],
    suite: SuiteOption = None,
    chance: Annotated[list[float] | None, typer.Option("--chance", help="0.5 and 0.8 when left out.")] = None,
    ridge: Annotated[
        float | None, typer.Option("--ridge", help="A ridge on the slope instead of Firth's correction.")
    ] = None,
    seed: SeedOption = 0,
    json: JsonFlag = False,
) -> None:
    """How long a task, in human minutes, the model completes with a chance of 50 % and 80 %."""
    from fivefold.evidence import Store
    from fivefold.thread.numbers import horizon_of

    with Store.open() as store:
        found, made = horizon_of(store, run, suite=suite, chances=tuple(chance or (0.5, 0.8)), ridge=ridge, seed=seed)
    if json:
        fit = {"intercept": found.intercept, "slope": found.slope, "n": found.n, "families": found.clusters}
        span = {"shortest": found.shortest, "longest": found.longest, "method": found.method}
        print_json({**fit, **span, "measurements": [measurement_json(m) for m in made]})
        return
    rows = [(f"{q:.0%}", _number(i.estimate), _ends(i), i.reason) for q, i in found.at.items()]
    title = f"Time horizon of {run}: {found.n} cases in {found.clusters} families, minutes"
    table(title, ("chance of success", "horizon", "interval", "note"), rows)


@group.command()
def items(
    runs: Annotated[list[str], typer.Argument(help="Runs of one suite: models, versions or seeds.")],
    suite: SuiteOption = None,
    json: JsonFlag = False,
) -> None:
    """Which cases tell models apart, which tell nothing, and which look wrong."""
    from fivefold.evidence import Store
    from fivefold.thread.numbers import items_of

    with Store.open() as store:
        name, found, left = items_of(store, runs, suite)
    if json:
        print_json({"suite": name, **plain(found), "left_out": left})  # type: ignore[dict-item]
        return
    flagged = [i for i in found.items if i.flag == "suspect"]
    alpha = "not measured" if found.alpha is None else f"{found.alpha:.2f}"
    console().print(f"{name}: {len(found.items)} cases, {found.subjects} runs, reliability (alpha) {alpha}")
    console().print(f"all pass: {len(found.flagged('ceiling'))}, all fail: {len(found.flagged('floor'))}")
    if found.cases_for_90:
        console().print(f"cases of the same kind for a reliability of 0.9: {found.cases_for_90}")
    table(
        "Cases that better models fail more often (look at their keys)",
        ("case", "mean score", "discrimination"),
        [(i.id, f"{i.difficulty:.2f}", f"{i.discrimination:+.2f}") for i in flagged] or [("none", "", "")],
    )
    if found.subjects < 4:
        console().print("fewer than four runs: no case can be told from chance")


@group.command()
def power(
    rate: Annotated[float | None, typer.Option("--rate", help="The true rate you expect.")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="The gate's threshold.")] = None,
    safer: Annotated[str, typer.Option("--safer", help="lower or higher.")] = "lower",
    worse: Annotated[float | None, typer.Option("--worse", help="Share of cases that get worse.")] = None,
    better: Annotated[float | None, typer.Option("--better", help="Share of cases that get better.")] = None,
    chance: Annotated[float, typer.Option("--power", help="Chance of finding what is there.")] = 0.8,
    level: Annotated[float, typer.Option("--level", help="Confidence level.")] = 0.95,
    json: JsonFlag = False,
) -> None:
    """How many cases a question needs, before you run it."""
    from fivefold.stats import advice

    if safer not in ("lower", "higher"):
        raise UsageError("unknown direction", expected="lower or higher", got=safer)
    direction: Safer = "lower" if safer == "lower" else "higher"
    rows = advice(
        rate=rate, threshold=threshold, safer=direction, worse=worse, better=better, power=chance, level=level
    )
    if json:
        print_json({"power": chance, "level": level, "rows": rows})
        return
    shown = [(r["question"], "no number of cases" if r["cases"] is None else r["cases"]) for r in rows]
    table(f"Cases needed (power {chance:g}, level {level:g})", ("to", "cases"), shown)


@group.command()
def sensitivity(
    suite: SuiteArgument,
    model: ModelOption,
    form: Annotated[list[str] | None, typer.Option("--form", help="Only these forms.")] = None,
    language: LanguageOption = None,
    limit: LimitOption = None,
    json: JsonFlag = False,
) -> None:
    """The same cases under several prompt forms: the spread is part of the result."""
    from fivefold.thread.asking import chosen_cases, sensitivity_of
    from fivefold.thread.single import asker_for

    chosen, cases = chosen_cases(suite, limit=limit, languages=language)
    with asker_for(model, f"sensitivity-{suite}") as asker:
        found, measured = sensitivity_of(asker, chosen, cases, form or ())
    if json:
        print_json({**plain(found), "measurement": measurement_json(measured)})  # type: ignore[dict-item]
        return
    table(
        f"{chosen.metric} of {model} on {found.n} cases",
        ("form", "rate"),
        [(f, f"{r:.3f}") for f, r in found.rates.items()],
    )
    p = "not tested" if found.p_value is None else f"{found.p_value:.2g}"
    console().print(f"mean over forms {_number(found.mean.estimate)} {_ends(found.mean)}")
    console().print(
        f"spread {_number(found.spread)}, sd between forms {_number(found.between)}, "
        f"cases that change {_number(found.unstable)}, p {p}"
    )


@group.command()
def reliability(
    suite: SuiteArgument,
    model: ModelOption,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers to each case.")] = 5,
    k: Annotated[list[int] | None, typer.Option("--k", help="1 and the number of samples when left out.")] = None,
    temperature: Annotated[float, typer.Option("--temperature")] = 1.0,
    language: LanguageOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    json: JsonFlag = False,
) -> None:
    """Ask every case several times: the chance that one of k answers succeeds, and that all k do."""
    from fivefold.thread.asking import chosen_cases, reliability_of
    from fivefold.thread.single import asker_for

    chosen, cases = chosen_cases(suite, limit=limit, languages=language)
    ks = sorted(set(k or (1, samples)))
    with asker_for(model, f"reliability-{suite}") as asker:
        found, made = reliability_of(asker, chosen, cases, samples=samples, ks=ks, temperature=temperature, seed=seed)
    if json:
        print_json({"reliability": found, "measurements": [measurement_json(m) for m in made]})
        return
    rows = [
        (r.k, _number(r.any_of_k.estimate), _ends(r.any_of_k), _number(r.all_of_k.estimate), _ends(r.all_of_k), r.cases)
        for r in found
    ]
    table(f"{suite} on {model}, {samples} answers a case", ("k", "any of k", "", "all of k", "", "cases"), rows)


@group.command()
def judges(
    suite: SuiteArgument,
    model: ModelOption,
    judge: Annotated[
        list[str],
        typer.Option("--judge", help=f"{JUDGES} May be repeated."),
    ],
    language: LanguageOption = None,
    limit: LimitOption = None,
    json: JsonFlag = False,
) -> None:
    """Two or more judges on the same answers: how often they differ, kappa, and the rate by each, per language."""
    from fivefold.thread.asking import chosen_cases
    from fivefold.thread.judges import compare_judges
    from fivefold.thread.single import asker_for

    chosen, cases = chosen_cases(suite, limit=limit, languages=language)
    with asker_for(model, f"judges-{suite}") as asker:
        rows, made = compare_judges(asker, chosen, cases, judge)
    if json:
        print_json({"pairs": rows, "measurements": [measurement_json(m) for m in made]})
        return
    table(
        f"{suite} on {model}: judges of the same answers",
        ("judges", "language", "both judged", "differ", "", "kappa", "rate by each", "only one judged"),
        [
            (
                f"{r.first} | {r.second}",
                r.language,
                r.found.n,
                _number(r.found.disagree.estimate),
                _ends(r.found.disagree),
                "not defined" if r.found.kappa is None else f"{r.found.kappa:.2f}",
                " | ".join(map(_number, r.found.rates)),
                f"{r.found.only_first} | {r.found.only_second}",
            )
            for r in rows
        ],
    )
    for r in rows:
        if r.language == "all" and r.found.differ:
            console().print(f"they differ on: {', '.join(r.found.differ[:10])}", markup=False, soft_wrap=True)


@group.command("judge-error")
def judge_error(
    judge: Annotated[str, typer.Option("--judge", help=JUDGES)],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels",
            help="answers, outputs, refusal-judge-labels, or a JSONL file (id, language, prompt, answer, label); may be "
            "repeated. The shipped ones, and the public ones where they are, when left out.",
        ),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option("--event", help="The label that counts: refusal, compliance, … The judge's own, if none."),
    ] = None,
    half: Annotated[
        str | None,
        typer.Option("--half", help="test or dev, by the ids. Test of the shipped sets and all of others, if none."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """How often a judge is wrong against people's labels, per language; rates by this judge are then corrected for it."""
    from fivefold.thread.judge_error import measure_judge

    if half not in (None, "dev", "test"):
        raise UsageError("unknown half", expected="dev or test", got=half)
    found = measure_judge(judge, labels or (), event=event, half=half)  # type: ignore[arg-type]
    if json:
        print_json({**found, "measurements": [measurement_json(m) for m in found["measurements"]]})
        return
    table(
        f"{judge}: {found['event']} against people's labels",
        ("labels", "language", "judged", "errored", "precision", "", "recall", "", "false alarms", ""),
        [_error_row(r) for r in found["rows"]],
    )
    for note in found["notes"]:
        console().print(note, markup=False)
    console().print(f"run: {found['run']}", markup=False)


def _error_row(row: Any) -> tuple[object, ...]:
    counts = row.counts
    lost = f"{row.errored}" + (f", {row.unscored} unscored" if row.unscored else "")
    rates = [cell for found, _ in row.rates.values() for cell in (_number(found.estimate), _ends(found))]
    return " + ".join(row.labels), row.language, counts.tp + counts.fn + counts.tn + counts.fp, lost, *rates


@group.command()
def contamination(
    suite: SuiteArgument,
    model: Annotated[str | None, typer.Option("--model", "-m", help="A model, for twins and familiarity.")] = None,
    corpus: Annotated[list[Path] | None, typer.Option("--corpus", help="A file or folder of texts.")] = None,
    canary: Annotated[list[str] | None, typer.Option("--canary", help="A string to look for as it is.")] = None,
    language: LanguageOption = None,
    limit: LimitOption = None,
    json: JsonFlag = False,
) -> None:
    """Whether a suite's cases stand in a corpus, or in a model's memory. What is found is shown beside later numbers."""
    from fivefold.evidence import Store
    from fivefold.thread.asking import chosen_cases
    from fivefold.thread.contaminate import check_contamination
    from fivefold.thread.single import asker_for

    chosen, cases = chosen_cases(suite, limit=limit, languages=language)
    options: dict[str, Any] = {"corpus": corpus or (), "canaries": canary or ()}
    if model is None:
        with Store.open() as store:
            result = check_contamination(store, chosen, cases, **options)
    else:
        with asker_for(model, f"contamination-{suite}") as asker:
            result = check_contamination(asker.store, chosen, cases, asker=asker, **options)
    if json:
        print_json(result)
        return
    console().print(f"{suite}: {result['verdict']}", markup=False)
    for sign in result["signs"]:
        console().print(f"  {sign}", markup=False)
    for name, check in result["checks"].items():
        for line in _check_lines(check) if check["checked"] else [f"not checked {check.get('reason', '')}".rstrip()]:
            console().print(f"  {name}: {line}", markup=False)


def _check_lines(check: Mapping[str, Any]) -> list[str]:
    """What a check of contamination found, in numbers."""
    if "more_familiar" in check:
        share, area = check["more_familiar"], check["auroc"]
        pairs = f"{share['n']} cases, {_number(share['estimate'])} more familiar than their twins"
        return [f"{pairs} {_ends(SimpleNamespace(**share))}, area under the curve {_number(area['estimate'])}"]
    if "rows" in check:
        return [_twin_line(row) for row in check["rows"]]
    found = f"{len(check['dirty'])} of {check['cases']} cases stand in {check['texts']} texts"
    return [f"{found}, {check['too_short']} too short to tell"]


def _twin_line(row: Mapping[str, Any]) -> str:
    if row["p_value"] is None:
        return f"{row['kind']}: {row['n']} cases have such a twin, too few to say anything"
    ends = _ends(SimpleNamespace(**row))
    return f"{row['kind']}: {row['n']} cases, twin minus original {row['difference']:+.3f} {ends}, p {row['p_adjusted']:.2g}"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _ends(interval: Any) -> str:
    low, high = interval.low, interval.high
    if low is None and high is None:
        return ""
    return f"[{'not bounded' if low is None else f'{low:.3g}'}, {'not bounded' if high is None else f'{high:.3g}'}]"
