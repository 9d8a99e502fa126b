"""`fivefold evaluate`: suites, benchmarks or any file of cases, against any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fivefold.cli.compare import print_comparison
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


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(evaluate)


def evaluate(
    model: ModelOption,
    suites: Annotated[
        list[str] | None, typer.Argument(help="Suites, benchmarks, evaluations (fivefold list …).")
    ] = None,
    cases: Annotated[
        Path | None, typer.Option("--cases", help="A JSONL file of cases: whatever you have is a benchmark.")
    ] = None,
    scorer: Annotated[str | None, typer.Option("--scorer", help="Scorer for --cases (fivefold list scorers).")] = None,
    split: Annotated[str | None, typer.Option("--split", help="train, dev or test; all when left out.")] = None,
    language: Annotated[list[str] | None, typer.Option("--language", help="en, ko, ja; may be repeated.")] = None,
    limit: LimitOption = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="The suite's own number when left out.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="A text that ends an answer; may be repeated.")
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Evaluate MODEL; every rate comes with its interval and with scored, unscored and errored counts.

    Where a run was accepted (fivefold accept), the new one is compared with it: exit code 3 for a regression.
    """
    from fivefold.thread.single import evaluate_model

    result = evaluate_model(
        model,
        suites or [],
        cases=cases,
        scorer=scorer,
        split=split,
        languages=language,
        limit=limit,
        max_new_tokens=max_new_tokens,
        seed=seed,
        stop=stop,
    )
    code = 3 if (result["comparison"] or {}).get("verdict") == "regression" else 0
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
        return code
    rows = [measurement_row(m) for m in result["measurements"]]
    table(f"{model}", ("metric", "slice", "estimate", "interval", "counts"), rows)
    for path in result["logs"]:
        console().print(f"log: {path}  (inspect view opens it)", markup=False, soft_wrap=True)
    for line in result["at_risk"]:
        console().print(f"at risk: {line}", markup=False, soft_wrap=True)
    if result["comparison"]:
        print_comparison(result["comparison"])
    console().print(f"run: {result['run']}", markup=False)
    return code
