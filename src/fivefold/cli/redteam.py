"""`fivefold redteam`: attack a model or a guarded system; successes become findings."""

from __future__ import annotations

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

AttackOption = Annotated[
    list[str], typer.Option("--attack", "-a", help="For example template, base64 | direct, best_of_n @ko.")
]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(redteam)
    app.command("redteam-finetune")(finetune)


def redteam(
    model: ModelOption,
    attack: AttackOption,
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
    budget: Annotated[str | None, typer.Option("--budget", help="Time for all attacks, for example 2m.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    preset: Annotated[
        str | None, typer.Option("--preset", help="harmbench: its behaviours, 512 greedy tokens, its classifier.")
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="Preset harmbench: the classifier's weights.")] = None,
    judge_prompt: Annotated[
        Path | None, typer.Option("--judge-prompt", help="Preset harmbench: a file with the classifier's prompt.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Attack MODEL with one or more attacks on behaviours of a suite; success is a judge's word with its error
    known."""
    from fivefold.thread.single import attack_model

    protocol = _preset(preset, suite, cases, judge, judge_prompt)
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
        **protocol,
    )
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
        return
    table(
        f"Attacks on {model}",
        ("metric", "slice", "estimate", "interval", "counts"),
        [measurement_row(m) for m in result["measurements"]],
    )
    rows: list[tuple[object, ...]] = [(f.id, f.severity, f.title, len(f.behaviours)) for f in result["findings"]]
    table("Findings", ("id", "severity", "title", "behaviours"), rows or [("none", "", "", "")])
    for note in result["left_out"]:
        console().print(f"left out: {note}", markup=False)
    for note in result["notes"]:
        console().print(note, markup=False, style="bold red")


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

    result = tune_and_attack(model, kind=kind, examples=n, behaviours=limit or 24, steps=steps or STEPS, seed=seed)
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
        return
    table(
        f"Compliance of {model} after fine-tuning",
        ("metric", "slice", "estimate", "interval", "counts"),
        [measurement_row(m) for m in result["measurements"]],
    )


def _preset(
    preset: str | None, suite: str | None, cases: Path | None, judge: str | None, judge_prompt: Path | None
) -> dict[str, Any]:
    """What a preset fixes; empty without one."""
    if preset is None:
        if judge or judge_prompt:
            raise UsageError("--judge and --judge-prompt belong to --preset harmbench")
        return {}
    if preset != "harmbench":
        raise UnknownNameError("preset", preset, ["harmbench"])
    if suite or cases:
        raise UsageError("a preset brings its behaviours", expected="no --suite and no --cases")
    from fivefold.thread.harmbench import TOKENS, judge_of

    chosen, notes = judge_of(judge, judge_prompt)
    return {"judge": chosen, "max_new_tokens": TOKENS, "notes": notes}
