"""`fivefold init`, `plan`, `run`, `measurements`: whole runs and what they left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fivefold.cli.output import (
    JsonFlag,
    console,
    error_console,
    measurement_json,
    measurement_row,
    print_json,
    print_json_lines,
    table,
)
from fivefold.errors import UsageError

PlanArgument = Annotated[Path, typer.Argument(help="A plan in YAML.")]
BudgetOption = Annotated[
    str | None, typer.Option("--budget", help="Time for the whole run, for example 5m; fewer cases where needed.")
]
QuickFlag = Annotated[
    bool, typer.Option("--quick", help="About a tenth of the cases: every step once, in little time.")
]
EXIT_CODES = {"ship": 0, "ship_with_safeguards": 0, "block": 3, "undecided": 4}


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(init)
    app.command()(plan)
    app.command()(run)
    app.command()(measurements)


def init(
    model: Annotated[str, typer.Option("--model", "-m", help="The model that the plan is about.")] = "smollm2",
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the plan.")] = Path("fivefold.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a plan for your model."""
    from fivefold.thread.starter import starter_plan

    if out.exists() and not force:
        raise UsageError(f"{out} exists already", next_step="choose another name with --out, or --force")
    text, notes = starter_plan(model)
    out.write_text(text, encoding="utf-8")
    for note in notes:
        console().print(note, markup=False)
    console().print(f"wrote {out}; next: fivefold plan {out}")


def plan(
    path: PlanArgument = Path("fivefold.yaml"),
    budget: BudgetOption = None,
    quick: QuickFlag = False,
    json: JsonFlag = False,
) -> None:
    """Show what a run would do and cost, without running it."""
    _check(path, quiet=json)
    from fivefold.cli.progress import LiveProgress
    from fivefold.thread import prepare
    from fivefold.types import plain

    ready = prepare(path, budget=budget, quick=quick)
    if json:
        rows = [{"step": n, "title": t, **vars(c)} for n, t, c in ready.costs]
        print_json({"plan": ready.plan.name, "digest": ready.plan.digest, "steps": rows, "rates": plain(ready.rates)})
        return
    LiveProgress().plan(ready.costs, ready.plan.minutes)
    console().print(f"speeds: {ready.rates.source}")


def run(
    path: PlanArgument = Path("fivefold.yaml"),
    budget: BudgetOption = None,
    quick: QuickFlag = False,
    json: JsonFlag = False,
) -> int:
    """Run the whole thread: evaluate, attack, look inside, mend, measure again, decide, report."""
    _check(path, quiet=json)
    from fivefold.cli.progress import LiveProgress
    from fivefold.thread import prepare, run_thread
    from fivefold.thread.steps import Quiet
    from fivefold.web.report import write_report

    ready = prepare(path, budget=budget, quick=quick)
    if json:
        result = run_thread(ready, Quiet())
        print_json(result.to_json(str(write_report(result.report_data, result.folder))))
        return EXIT_CODES[result.decision["decision"]]
    progress = LiveProgress()
    progress.plan(ready.costs, ready.plan.minutes)
    try:
        result = run_thread(ready, progress)
    finally:
        progress.close()
    _print_decision(result, write_report(result.report_data, result.folder))
    return EXIT_CODES[result.decision["decision"]]


def _check(path: Path, *, quiet: bool) -> None:
    """Say at once what is wrong with a plan: the steps behind it take seconds to import."""
    from fivefold.thread.plan import read_plan

    found = read_plan(path)
    if not quiet:
        error_console().print(f"plan {found.name}: getting ready", markup=False)


def _print_decision(result: Any, report: Path) -> None:
    out = console()
    decision = result.decision
    out.print(
        f"\n[bold]{decision['decision'].replace('_', ' ').upper()}[/bold]  {decision['subject_name']}", markup=True
    )
    for reason in decision["reasons"]:
        out.print(f"  {reason}", markup=False)
    if decision["next_measurement"]:
        out.print(f"  cheapest next measurement: {decision['next_measurement']}", markup=False)
    out.print(f"\nreport     {report}", markup=False, soft_wrap=True)
    for name, path in result.documents.items():
        out.print(f"{name:<10} {path}", markup=False, soft_wrap=True)
    out.print(f"run        {result.run}   (fivefold govern verify proves its evidence)", markup=False)


def measurements(
    run: Annotated[str | None, typer.Option("--run", help="Only this run.")] = None, json: JsonFlag = False
) -> None:
    """List measurements; with --json one object a line."""
    from fivefold.evidence import Store

    with Store.open() as store:
        found = store.measurements(run=run)
    if json:
        print_json_lines(measurement_json(m) for m in found)
        return
    table(
        "Measurements",
        ("run", "version", "metric", "slice", "estimate", "interval", "counts"),
        [(m.run, m.subject_name, *measurement_row(m)) for m in found],
    )
