"""`fivefold redteam`: attack a model or a guarded system; successes become findings. `coverage`, `curves` and `transfer` say
what was tried, what it took, and what else falls to it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from fivefold.cli.output import (
    JsonFlag,
    LimitOption,
    ModelOption,
    console,
    measurement_json,
    measurement_row,
    print_json,
    table,
)
from fivefold.errors import UnknownNameError, UsageError
from fivefold.types import Measurement

FEW = 10
"""Behaviours below which a rate of success is only a sign that an attack works."""

AttackOption = Annotated[
    list[str] | None, typer.Option("--attack", "-a", help="For example template, base64 | direct, best_of_n @ko.")
]
TargetOption = Annotated[
    str | None, typer.Option("--model", "-m", help="smollm2, hf:org/name, a path, openai/…, http://…/v1, scripted:…")
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="A model that judges by a rubric, or a scorer with its options: policy(policy=FILE, model=M), "
        "classifier(model=PATH, positive=harmful); with --preset, the classifier's weights.",
    ),
]
RunOption = Annotated[str | None, typer.Option("--run", help="One run only; without it every run of the store.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    group = typer.Typer(help="Attack a model; what was tried, what it took.", rich_markup_mode=None)
    group.callback(invoke_without_command=True)(redteam)
    group.command()(coverage)
    group.command()(curves)
    group.command()(transfer)
    group.command()(finetune)
    app.add_typer(group, name="redteam")


def redteam(
    ctx: typer.Context,
    model: TargetOption = None,
    attack: AttackOption = None,
    attacker: Annotated[
        str | None, typer.Option("--attacker", help="A model that writes prompts, for pair, tap, crescendo, goat, …")
    ] = None,
    judge: JudgeOption = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="Whose behaviours to ask for: a suite, harmbench, bipia or ipi_coding_agent; core-harms, or what the "
            "attack brings, when none is given.",
        ),
    ] = None,
    cases: Annotated[
        Path | None, typer.Option("--cases", help="Behaviours from a JSONL file instead of a suite.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, dev or test.")] = "dev",
    language: Annotated[str, typer.Option("--language", help="en, ko or ja; `@ko` in an attack's name wins.")] = "en",
    limit: LimitOption = 12,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Queries per behaviour.")] = 8,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimisation steps per behaviour.")] = 20,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens of an answer.")] = 40,
    budget: Annotated[str | None, typer.Option("--budget", help="Time for all attacks, for example 2m.")] = None,
    max_queries: Annotated[
        int | None, typer.Option("--max-queries", min=1, help="Requests in all, to target and helping models.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Tokens in all, of target and helping models.")
    ] = None,
    max_money: Annotated[float | None, typer.Option("--max-money", min=0, help="Money in all; needs --price.")] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Price of a million tokens.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    preset: Annotated[
        str | None, typer.Option("--preset", help="harmbench: its behaviours, 512 greedy tokens, its classifier.")
    ] = None,
    judge_prompt: Annotated[
        Path | None, typer.Option("--judge-prompt", help="Preset harmbench: a file with the classifier's prompt.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Attack MODEL with one or more attacks on behaviours of a suite; success is a judge's word with its error
    known."""
    if ctx.invoked_subcommand is not None:
        return
    if model is None or not attack:
        raise UsageError(
            f"missing option {'--model' if model is None else '--attack'}",
            next_step="fivefold redteam --attack template --model smollm2; fivefold list attacks",
        )
    from fivefold.redteam.budget import SpendCap
    from fivefold.thread.single import attack_model

    protocol = _preset(preset, suite, cases, judge, judge_prompt)
    capped = any(x is not None for x in (max_queries, max_tokens, max_money))
    result = attack_model(
        model,
        attack,
        suite_name="harmbench" if protocol else suite,
        cases=cases,
        split=split,
        language=language,
        limit=limit,
        queries=queries,
        steps=steps,
        budget=budget,
        seed=seed,
        attacker=attacker,
        judge_name=None if preset else judge,
        cap=SpendCap(queries=max_queries, tokens=max_tokens, money=max_money, price=price) if capped else None,
        on_cost=None if json else lambda cost: _say_cost(cost, price),
        **{"max_new_tokens": max_new_tokens, **protocol},
    )
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
        return
    _show(model, result)


def _say_cost(cost: Any, price: float | None) -> None:
    """One line before anything is asked: what the attacks are expected to take."""
    tokens = cost.prompt_tokens + cost.completion_tokens
    money = f", {tokens * price / 1e6:.2f} at the given price" if price else ""
    trained = f", {cost.train_tokens:,} tokens of training" if cost.train_tokens else ""
    spoken = "under a minute" if cost.minutes < 1 else f"{cost.minutes:.0f} minutes"
    time = f", {spoken} (speed {'; '.join(cost.notes)})" if cost.minutes else ""
    line = f"expected: about {cost.requests:,} requests, {tokens:,} tokens{trained}{money}{time}"
    console().print(line, markup=False, soft_wrap=True)


def _say_point(point: Any) -> None:
    """One line for each number of steps of the fine-tuning attack."""
    rate = "nothing judged" if point.rate is None else f"{point.rate:.0%} comply"
    console().print(f"after {point.steps} steps: {rate}", markup=False)


def _show(model: str, result: dict[str, Any]) -> None:
    fallen: Counter[tuple[str, str]] = Counter()
    for cell in result["heat"]:
        fallen[cell["attack"], cell["language"]] += cell["successes"]
    table(
        f"Attacks on {model}",
        ("metric", "slice", "estimate", "interval", "successes", "counts"),
        [_attack_row(m, fallen) for m in result["measurements"]],
    )
    rows: list[tuple[object, ...]] = [(f.id, f.severity, f.title, len(f.behaviours)) for f in result["findings"]]
    table("Findings", ("id", "severity", "title", "behaviours"), rows or [("none", "", "", "")])
    for note in result["notes"]:
        console().print(f"NOTE: {note}", markup=False, style="bold red")
    for note in result["left_out"]:
        console().print(f"left out: {note}", markup=False)
    judged = [m.metadata.get("clusters", m.n_scored) for m in result["measurements"] if m.corrects is None]
    if few := sorted({n for n in judged if 0 < n < FEW}):
        counts = " and ".join(map(str, few))
        console().print(
            f"fewer than {FEW} behaviours were judged ({counts}): a sign that an attack works here or fails, no measure of "
            "its strength; rank nothing by it",
            markup=False,
        )
    helped = f", {result['helper_tokens']:,} tokens of helping models" if result["helper_tokens"] else ""
    spent = f"{result['queries']:,} queries, {result['tokens']:,} tokens{helped}, {result['seconds']:.1f} s"
    console().print(f"spent: {spent}", markup=False)
    console().print(f"run {result['run']}: fivefold redteam curves --run {result['run']}", markup=False)


def _attack_row(m: Measurement, fallen: Counter[tuple[str, str]]) -> tuple[str, ...]:
    """A measurement as a row, with the number of behaviours that fell where it was counted."""
    *shown, counts = measurement_row(m)
    successes = "" if m.corrects or not m.n_scored else str(fallen[m.slice["attack"], m.slice["language"]])
    return (*shown, successes, counts)


def coverage(
    run: RunOption = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="attack, transform, language, surface, owasp, agentic or atlas.")
    ] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Only what has not been tried.")] = False,
    json: JsonFlag = False,
) -> None:
    """What has and has not been tried, by attack, transform, language, surface and catalogue entry."""
    from fivefold.thread.tried import covered

    found = covered(run)
    rows = [r for r in found["coverage"] if (kind is None or r.kind == kind) and not (missing and r.state == "tried")]
    if json:
        print_json({"coverage": rows, "combinations": found["combinations"]})
        return
    columns = ("kind", "name", "what it is", "state", "behaviours", "judged", "successes", "languages", "guards")
    table("Coverage", columns, [_coverage_row(r) for r in rows])
    if not missing and kind is None:
        table("Tried", columns, [_coverage_row(r) for r in found["combinations"]])


def _coverage_row(r: Any) -> tuple[object, ...]:
    lost = "".join(f", {n} {word}" for n, word in ((r.errored, "errored"), (r.unscored, "unscored")) if n)
    counts = (r.behaviours, f"{r.judged}{lost}", r.successes)
    return r.kind, r.name, r.title, r.state, *counts, " ".join(r.languages), " ".join(r.guards)


def curves(
    run: RunOption = None,
    unit: Annotated[str, typer.Option("--unit", help="queries, tokens or seconds, for survival and cost.")] = "queries",
    json: JsonFlag = False,
) -> None:
    """Success after n queries (raw and without the judge's error), survival over a budget, and what a success cost."""
    from fivefold.thread.tried import curves as computed

    found = computed(run, unit)
    if json:
        print_json({"curves": found})
        return
    at = [
        (c["model"], c["attack"], p["n"], _rate(p["raw"]), _rate(p["corrected"]), p["scored"])
        for c in found
        for p in c["success_at"]
    ]
    table("Success at n queries", ("model", "attack", "n", "raw", "without the judge's error", "behaviours"), at)
    holds = [
        (c["model"], c["attack"], f"{s['time']:g}", f"{s['share']:.3f}", _limits(s), s["at_risk"])
        for c in found
        for s in c["survival"]
    ]
    table(f"Holding out beyond a budget of {unit}", ("model", "attack", unit, "share", "interval", "at risk"), holds)
    costs = [
        (
            c["model"],
            c["attack"],
            e["successes"],
            *(_number(e[k]) for k in ("first_quartile", "median", "third_quartile")),
        )
        for c in found
        for e in (c["effort"],)
    ]
    table(
        f"{unit} to success".capitalize(),
        ("model", "attack", "successes", "quarter", "median", "three quarters"),
        costs,
    )


def transfer(
    run: Annotated[str, typer.Argument(help="The run whose successes are sent.")],
    to: Annotated[list[str] | None, typer.Option("--to", help="A model to send them to; several may be named.")] = None,
    judge: JudgeOption = None,
    json: JsonFlag = False,
) -> None:
    """Send what succeeded in RUN, as it stands, to other models."""
    from fivefold.thread.tried import transfer as sent

    found = sent(run, to or [], judge)
    if json:
        print_json({"transfer": found})
        return
    rows = [(c["source"], c["target"], _rate(c["rate"]), c["rate"]["n"], len(c["outcomes"])) for c in found]
    table("Transfer", ("source", "target", "success", "judged", "sent"), rows)


def _rate(interval: dict[str, Any] | None) -> str:
    if interval is None or interval["estimate"] is None:
        return "not measured"
    return f"{interval['estimate']:.3f} {_limits(interval)}".strip()


def _limits(interval: dict[str, Any]) -> str:
    if interval["low"] is None or interval["high"] is None:
        return ""
    return f"[{interval['low']:.3f}, {interval['high']:.3f}]"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def finetune(
    model: ModelOption,
    kind: Annotated[str, typer.Option("--examples", help="harmful, identity or benign.")] = "harmful",
    n: Annotated[int, typer.Option("--n", min=1, help="How many examples are trained on.")] = 16,
    steps: Annotated[list[int] | None, typer.Option("--steps", min=0, help="Steps to measure after; several.")] = None,
    limit: LimitOption = 24,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    json: JsonFlag = False,
) -> None:
    """Train MODEL on a few examples and measure after how many steps it complies; open weights only."""
    from fivefold.redteam.finetuning import STEPS
    from fivefold.thread.tuning import tune_and_attack

    result = tune_and_attack(
        model,
        kind=kind,
        examples=n,
        behaviours=limit or 24,
        steps=steps or STEPS,
        seed=seed,
        on_cost=None if json else lambda cost: _say_cost(cost, None),
        on_point=None if json else _say_point,
    )
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
        return
    table(
        f"Compliance of {model} after fine-tuning",
        ("metric", "slice", "estimate", "interval", "counts"),
        [measurement_row(m) for m in result["measurements"]],
    )
    for note in result["notes"]:
        console().print(f"NOTE: {note}", markup=False, style="bold red")


def _preset(
    preset: str | None, suite: str | None, cases: Path | None, judge: str | None, judge_prompt: Path | None
) -> dict[str, Any]:
    """What a preset fixes; empty without one."""
    if preset is None:
        if judge_prompt:
            raise UsageError("--judge-prompt belongs to --preset harmbench")
        return {}
    if preset != "harmbench":
        raise UnknownNameError("preset", preset, ["harmbench"])
    if suite or cases:
        raise UsageError("a preset brings its behaviours", expected="no --suite and no --cases")
    from fivefold.thread.harmbench import TOKENS, judge_of

    chosen, notes = judge_of(judge, judge_prompt)
    return {"classifier": chosen, "max_new_tokens": TOKENS, "notes": notes}
