"""`fivefold findings`: the weaknesses that were found, and their life."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from fivefold.cli.output import JsonFlag, LimitOption, console, measurement_json, print_json, table
from fivefold.errors import UnknownNameError, UsageError
from fivefold.types import Finding, Status, plain

group = typer.Typer(help="Weaknesses that were found, and their life.", no_args_is_help=True)
IdArgument = Annotated[str, typer.Argument(help="The finding's id, FF-…")]
IdsArgument = Annotated[list[str] | None, typer.Argument(help="Finding ids; all when none is given.")]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge", help="A judge for all, instead of the one that judged each finding: refusal, a model, a scorer."
    ),
]
StatusOption = Annotated[str | None, typer.Option("--status", help="open, patched, verified, closed or regressed.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="findings")


@group.command("list")
def list_(
    run: Annotated[str | None, typer.Option("--run", help="Only this run.")] = None,
    status: StatusOption = None,
    json: JsonFlag = False,
) -> None:
    """List findings with their state."""
    from fivefold.evidence import Store

    _status(status)

    with Store.open() as store:
        found = [f for f in store.findings(run=run) if status is None or f.status == status]
    if json:
        print_json({"findings": found})
        return
    rows = [(f.id, f.status, f.severity, f.title, len(f.behaviours)) for f in found]
    table("Findings", ("id", "status", "severity", "title", "behaviours"), rows or [("none", "", "", "", "")])


@group.command()
def show(id: IdArgument, json: JsonFlag = False) -> None:
    """Show one finding with its cause, its shortest case and its history."""
    from fivefold.redteam.life import missing

    finding = _find(id)
    if json:
        print_json(finding)
        return
    out = console()
    out.print(
        f"{finding.id}  {finding.title}\n{finding.status}, {finding.severity}: {finding.severity_reason}", markup=False
    )
    out.print(
        f"taxonomy: {finding.taxonomy.surface}; {finding.taxonomy.technique}; {', '.join(finding.taxonomy.owasp)}"
    )
    if finding.cause:
        out.print(f"cause: {finding.cause.get('sentence', plain(finding.cause))}", markup=False)
    case = finding.reproductions[0]
    out.print(f"\nshortest case: {case.messages[-1].content}", markup=False)
    out.print(f"answer then:   {case.response}\n", markup=False)
    for state, evidence, reason in finding.history:
        out.print(f"  {state:<10} {reason}  ({evidence[:12]})", markup=False)
    for line in missing(finding):
        out.print(f"still needed: {line}", markup=False)


@group.command()
def replay(
    model: Annotated[str, typer.Option("--model", "-m", help="The version to ask again.")],
    id: IdsArgument = None,
    limit: LimitOption = None,
    judge: JudgeOption = None,
    json: JsonFlag = False,
) -> int:
    """Ask the stored cases of findings again of another version, told by the judge that judged them; exit code 3 when any
    reproduces, 4 when none does but one could not be asked or judged."""
    from fivefold.thread.replaying import replay_findings

    result = replay_findings(model, ids=id or None, limit=limit, judge=judge)
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
    else:
        rows = [
            (r["finding"], r["title"], ": ".join(filter(None, (r["result"], r["why"])))) for r in result["findings"]
        ]
        table(f"Replay on {model}", ("finding", "title", "result"), rows)
        _loud(result["notes"])
    seen = {r["result"] for r in result["findings"]}
    return 3 if "reproduces" in seen else 4 if seen - {"withstood"} else 0


@group.command()
def minimise(
    model: Annotated[str, typer.Option("--model", "-m", help="The version that shows them.")],
    id: IdsArgument = None,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Requests for one case.")] = 96,
    judge: JudgeOption = None,
    json: JsonFlag = False,
) -> None:
    """Reduce the reproducing cases of findings to the shortest that still reproduce."""
    from fivefold.redteam.minimise import MinimiseConfig
    from fivefold.thread.exchange import minimise as run
    from fivefold.thread.exchange import summary

    rows = summary(run(model, ids=id or None, config=MinimiseConfig(queries=queries), judge=judge))
    if json:
        print_json({"findings": rows})
        return
    columns = ("finding", "reproduces", "minimal", "queries", "characters before", "after")
    table(f"Minimised on {model}", columns, [tuple(row.values()) for row in rows])


@group.command()
def patch(
    id: IdArgument,
    model: Annotated[str, typer.Option("--model", "-m", help="The version that answers it.")],
    reason: Annotated[str, typer.Option("--reason", help="What was changed.")],
) -> None:
    """Name the version that answers a finding; `verify` then says whether it does."""
    from fivefold.thread.exchange import name_patch

    done = name_patch(id, model, reason=reason)
    console().print(f"{done.id} is {done.status}")


@group.command()
def verify(
    model: Annotated[str, typer.Option("--model", "-m", help="The patched version.")],
    id: IdsArgument = None,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Queries per held-out behaviour.")] = 8,
    behaviours: Annotated[int, typer.Option("--behaviours", min=1, help="Held-out behaviours per finding.")] = 8,
    judge: JudgeOption = None,
    json: JsonFlag = False,
) -> int:
    """Replay patched findings and attack held-out behaviours again; exit code 3 when one regressed, 4 when one
    could not be decided."""
    from fivefold.thread.verifying import verify_findings

    result = verify_findings(model, ids=id or None, queries=queries, behaviours=behaviours, judge=judge)
    states = {r["status"] for r in result["findings"]}
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
    else:
        rows = [(r["finding"], r["status"], r["held_out"], "; ".join(r["missing"])) for r in result["findings"]]
        table(f"Verified on {model}", ("finding", "state", "held-out behaviours", "still needed"), rows)
        _loud(result["notes"])
    return 3 if "regressed" in states else 4 if "patched" in states else 0


@group.command()
def export(
    format: Annotated[str, typer.Option("--format", "-f", help="sarif, avid, md or cases.")],
    id: IdsArgument = None,
    status: StatusOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file instead of standard output.")] = None,
) -> None:
    """Write findings as SARIF 2.1.0, AVID reports, Markdown, or regression cases (JSONL)."""
    from fivefold.thread.exchange import export as run

    text = run(format, ids=id or None, status=_status(status))
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The report.")],
    format: Annotated[str, typer.Option("--format", "-f", help="garak, promptfoo or pyrit.")],
    json: JsonFlag = False,
) -> None:
    """Take another tool's report as findings to replay; what it calls a success is a claim until it reproduces."""
    from fivefold.thread.exchange import bring_in

    found = bring_in(file, format)
    if json:
        print_json({"findings": found})
        return
    rows = [(f.id, f.status, f.title, len(f.reproductions)) for f in found]
    table(f"Imported from {file}", ("id", "status", "weakness", "cases"), rows)
    console().print("next: fivefold findings replay --model MODEL", markup=False)


@group.command()
def close(
    id: IdArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why it may be closed.")],
    evidence: Annotated[str, typer.Option("--evidence", help="Id of the record that this rests on.")],
) -> None:
    """Close a verified finding, with a reason and the record that it rests on."""
    from fivefold.evidence import Store

    with Store.open() as store:
        finding = _find(id)
        if finding.status != "verified":
            raise UsageError(
                f"{id} is {finding.status}, so it cannot be closed",
                expected="verified",
                next_step="patch it, then run the plan again: replay and re-attack verify it",
            )
        done = store.update_finding(id, "closed", evidence=store.get(evidence).id, reason=reason)
    console().print(f"{done.id} is closed")


def _loud(notes: list[str]) -> None:
    for note in notes:
        console().print(f"NOTE: {note}", markup=False, style="bold red")


def _status(status: str | None) -> Status | None:
    if status is not None and status not in get_args(Status):
        raise UnknownNameError("state", status, get_args(Status))
    return cast("Status | None", status)


def _find(id: str) -> Finding:
    from fivefold.evidence import Store

    with Store.open() as store:
        found = {f.id: f for f in store.findings()}
    if id not in found:
        raise UnknownNameError("finding", id, found, next_step="fivefold findings list")
    return found[id]
