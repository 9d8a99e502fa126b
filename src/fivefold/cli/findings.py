"""`fivefold findings`: the weaknesses that were found, and their life."""

from __future__ import annotations

from typing import Annotated

import typer

from fivefold.cli.output import JsonFlag, LimitOption, console, measurement_json, print_json, table
from fivefold.errors import UnknownNameError, UsageError
from fivefold.types import Finding, plain

group = typer.Typer(help="Weaknesses that were found, and their life.", no_args_is_help=True)
IdArgument = Annotated[str, typer.Argument(help="The finding's id, FF-…")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="findings")


@group.command("list")
def list_(
    run: Annotated[str | None, typer.Option("--run", help="Only this run.")] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="open, patched, verified, closed or regressed.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """List findings with their state."""
    from fivefold.evidence import Store

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


@group.command()
def replay(
    model: Annotated[str, typer.Option("--model", "-m", help="The version to ask again.")],
    id: Annotated[list[str] | None, typer.Argument(help="Finding ids; all when none is given.")] = None,
    limit: LimitOption = None,
    json: JsonFlag = False,
) -> int:
    """Ask the stored cases of findings again of another version; exit code 3 when any reproduces."""
    from fivefold.thread.replaying import replay_findings

    result = replay_findings(model, ids=id or None, limit=limit)
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
    else:
        rows = [(r["finding"], r["title"], r["result"]) for r in result["findings"]]
        table(f"Replay on {model}", ("finding", "title", "result"), rows)
    return 3 if any(r["result"] == "reproduces" for r in result["findings"]) else 0


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


def _find(id: str) -> Finding:
    from fivefold.evidence import Store

    with Store.open() as store:
        found = {f.id: f for f in store.findings()}
    if id not in found:
        raise UnknownNameError("finding", id, found, next_step="fivefold findings list")
    return found[id]
