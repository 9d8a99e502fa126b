"""`fivefold govern`: gates, decisions, documents, and proof that the evidence is whole."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer

from fivefold.cli.output import JsonFlag, console, print_json, table
from fivefold.errors import UsageError

group = typer.Typer(help="Gates, decisions, documents, and proof that the evidence is whole.", no_args_is_help=True)
RunOption = Annotated[str | None, typer.Option("--run", help="The run; the newest with a decision when left out.")]
EXIT = {"pass": 0, "fail": 3, "undecided": 4}


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="govern")


@group.command()
def verify(
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Verify an exported bundle instead of the store.")
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Prove the store (or a bundle): chain, records, artifacts, signatures; names what was tampered with."""
    from fivefold.evidence import Store, verify_bundle
    from fivefold.evidence import verify as verify_store

    if bundle is not None:
        report = verify_bundle(bundle)
    else:
        with Store.open(create=False) as store:
            report = verify_store(store)
    if json:
        print_json(report)
    elif report.ok:
        console().print(f"whole: {report.checked} checks, nothing was changed", markup=False)
    else:
        console().print(f"NOT WHOLE: {len(report.problems)} problem(s) in {report.checked} checks", markup=False)
        for problem in report.problems:
            console().print(f"  {problem}", markup=False)
    return 0 if report.ok else 1


@group.command()
def gate(
    file: Annotated[str, typer.Argument(help="A packaged gate's name or a YAML file.")] = "release",
    run: RunOption = None,
    json: JsonFlag = False,
) -> int:
    """Hold every version of a run against a gate; exit code 0 when one passes, 3 failed, 4 undecided."""
    from fivefold.evidence import Store
    from fivefold.govern.gate import apply_gate, read_gate, status_of

    rules = read_gate(file)
    with Store.open() as store:
        run = run or _newest_run(store)
        measurements = store.measurements(run=run)
    subjects = {m.subject: m.subject_name for m in measurements if m.subject}
    if not subjects:
        raise UsageError(f"run {run} has no measurements", next_step="fivefold measurements shows what there is")
    today = dt.datetime.now(dt.UTC).date()
    results = {s: apply_gate(rules, measurements, subject=s, subject_name=n, today=today) for s, n in subjects.items()}
    states = {subjects[s]: status_of(r) for s, r in results.items()}
    if json:
        print_json(
            {"run": run, "gate": rules.gate, "states": states, "gates": [g for r in results.values() for g in r]}
        )
    else:
        rows = [(g.subject_name, g.rule, g.verdict.kind, g.verdict.reason) for r in results.values() for g in r]
        table(f"Gate {rules.gate} on {run}", ("version", "rule", "verdict", "reason"), rows)
    best = min(states.values(), key=lambda s: ("pass", "undecided", "fail").index(s))
    return EXIT[best]


@group.command()
def card(run: RunOption = None, json: JsonFlag = False) -> None:
    """Print the model card of a run's decision."""
    _show(run, "card.md", "card.json", json)


@group.command()
def bom(run: RunOption = None, json: JsonFlag = False) -> None:
    """Print the AI bill of materials (CycloneDX 1.6 JSON) of a run's decision."""
    _show(run, "bom.json", "bom.json", json)


@group.command()
def bundle(
    out: Annotated[Path, typer.Argument(help="The zip file to write.")], run: RunOption = None, json: JsonFlag = False
) -> None:
    """Export a run's records, artifacts and signatures as one file that verifies offline."""
    from fivefold.evidence import Store, export_bundle

    with Store.open() as store:
        run = run or _newest_run(store)
        export_bundle(store, run, out)
    if json:
        print_json({"bundle": str(out), "run": run})
    else:
        console().print(f"wrote {out}; anyone can check it: fivefold govern verify --bundle {out}", markup=False)


def _show(run: str | None, text_name: str, json_name: str, json: bool) -> None:
    import orjson

    from fivefold.evidence import Store

    with Store.open() as store:
        run = run or _newest_run(store)
        steps: list[Any] = [r for r in store.records("step", run) if r.body["name"] == "documents"]
        if not steps:
            raise UsageError(f"run {run} has no documents", next_step="let fivefold run end")
        digests = steps[-1].body["result"]["documents"]
        data = store.artifact(digests[json_name if json else text_name]).read_bytes()
    if json:
        print_json(orjson.loads(data))
    else:
        console().print(data.decode(), markup=False, soft_wrap=True)


def _newest_run(store: Any) -> str:
    decisions = store.records("decision")
    if not decisions:
        raise UsageError("no run has ended with a decision yet", next_step="fivefold run PLAN")
    return str(decisions[-1].run)
