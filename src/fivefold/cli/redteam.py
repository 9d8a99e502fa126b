"""`fivefold redteam`: attack a model or a guarded system; successes become findings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

AttackOption = Annotated[
    list[str], typer.Option("--attack", "-a", help="For example template, base64 | direct, best_of_n @ko.")
]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(redteam)


def redteam(
    model: ModelOption,
    attack: AttackOption,
    suite: Annotated[str, typer.Option("--suite", help="Whose behaviours to ask for.")] = "core-harms",
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
    json: JsonFlag = False,
) -> None:
    """Attack MODEL with one or more attacks on behaviours of a suite; success is a judge's word with its error
    known."""
    from fivefold.thread.single import attack_model

    result = attack_model(
        model,
        attack,
        suite_name=suite,
        cases=cases,
        split=split,
        language=language,
        limit=limit,
        queries=queries,
        steps=steps,
        budget=budget,
        seed=seed,
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
