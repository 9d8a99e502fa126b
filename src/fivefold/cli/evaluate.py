"""`fivefold evaluate`: suites, benchmarks or any file of cases, against any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from fivefold.errors import UsageError

if TYPE_CHECKING:
    from fivefold.engine.serving import Budget

MOST_REASONS = 5
"""Reasons for a missing score that are shown."""


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
    scorer: Annotated[
        str | None, typer.Option("--scorer", help="For --cases: a scorer, with its options regex(pattern=…).")
    ] = None,
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
    stop_when: Annotated[
        str | None,
        typer.Option(
            "--stop-when", help='Ask in random order until this is settled, e.g. "harmful_compliance <= 0.05".'
        ),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", help="name=value: an option of a benchmark, an argument of a task; may be repeated."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of a local model: float32 (default), bfloat16, float16, auto.")
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Time for all suites, for example 10m.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Prompt and answer tokens of all suites together.")
    ] = None,
    max_money: Annotated[float | None, typer.Option("--max-money", min=0, help="Money in all; needs --price.")] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Price of a million tokens.")] = None,
    json: JsonFlag = False,
) -> int:
    """Evaluate MODEL; every rate comes with its interval and with scored, unscored and errored counts.

    With --stop-when the intervals are anytime-valid: they hold although the run was looked at while it went on.

    Where a run was accepted (fivefold accept), the new one is compared with it: exit code 3 for a regression. Where
    nothing could be scored at all there is no result to pass on: exit code 4.
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
        stop_when=stop_when,
        dtype=dtype,
        args=_arguments(arg or ()),
        budget=_budget(budget, max_tokens, max_money, price),
    )
    measured = any(m.estimate is not None for m in result["measurements"])
    code = 3 if (result["comparison"] or {}).get("verdict") == "regression" else 0 if measured else 4
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
        return code
    rows = [measurement_row(m) for m in result["measurements"]]
    table(f"{model}", ("metric", "slice", "estimate", "interval", "counts"), rows)
    for path in result["logs"]:
        console().print(f"log: {path}  (inspect view opens it)", markup=False, soft_wrap=True)
    for row in result["without_score"][:MOST_REASONS]:
        said = f"{row['suite']}: {row['n']} {row['kind']}, among them {row['case']}: {row['why'][:300]}"
        console().print(said, markup=False, soft_wrap=True)
    for line in (*map(_stopped, result["stopping"]), *map(_cut_short, result["over_budget"])):
        console().print(line, markup=False, soft_wrap=True)
    for line in result["at_risk"]:
        console().print(f"at risk: {line}", markup=False, soft_wrap=True)
    if result["comparison"]:
        print_comparison(result["comparison"])
    console().print(f"run: {result['run']}", markup=False)
    return code


def _arguments(texts: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs; values are read as YAML."""
    import yaml

    pairs = [text.partition("=") for text in texts]
    if wrong := [
        text for text, (name, sign, _) in zip(texts, pairs, strict=True) if not sign or not name.isidentifier()
    ]:
        raise UsageError("not an argument", expected="name=value", got=wrong[0])
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def _budget(time: str | None, tokens: int | None, money: float | None, price: float | None) -> Budget | None:
    """The limits of one command; None where there is none."""
    from fivefold.engine.serving import Budget
    from fivefold.thread.plan import parse_minutes

    if money is not None and not price:
        raise UsageError("a cap on money needs a price", expected="--price: of a million tokens")
    paid = None if money is None or not price else int(money / price * 1e6)
    caps = [cap for cap in (tokens, paid) if cap is not None]
    seconds = parse_minutes(time) * 60 if time else None
    return Budget(seconds=seconds, tokens=min(caps, default=None)) if seconds or caps else None


def _stopped(how: Mapping[str, Any]) -> str:
    """How asking ended, with the interval that is valid for it."""
    found, share = how["interval"], f"{how['asked']} of {how['of']} cases"
    what = {"holds": "holds", "does not hold": "does not hold", "open": "is not settled"}[how["answer"]]
    began = f"stopped early after {share}" if how["early"] else f"asked {share}"
    if found.estimate is None:
        return f"{how['suite']}: {began}, nothing was scored: {how['bound']} is not settled"
    ends = f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"
    looks = f"{how['looks']} look{'s' if how['looks'] > 1 else ''}"
    return f"{how['suite']}: {began} ({looks}): {how['bound']} {what}, anytime-valid {found.level:.0%} interval {ends}"


def _cut_short(suite: str) -> str:
    return f"{suite}: cut short by the budget; the cases that were not started are unscored"
