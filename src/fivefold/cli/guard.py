"""`fivefold guard`: what guards say of a text, and how good they are."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fivefold.cli.output import JsonFlag, print_json, table

group = typer.Typer(help="What guards say of a text, and how good they are.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="guard")


@group.command()
def check(
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
    guard: Annotated[
        list[str] | None, typer.Option("--guard", "-g", help="Guards by name (fivefold list guards).")
    ] = None,
    stage: Annotated[str, typer.Option("--stage", help="input or output.")] = "input",
    json: JsonFlag = False,
) -> int:
    """Say what each guard thinks of a text; exit code 3 when any blocks it or could not look."""
    from fivefold.thread.single import check_text

    verdicts = check_text(sys.stdin.read() if text == "-" else text, guard or None, stage=stage)
    if json:
        print_json({"verdicts": verdicts})
    else:
        rows = [(v.guard, v.action, "" if v.score is None else f"{v.score:.3f}", v.reason) for v in verdicts]
        table("Verdicts", ("guard", "action", "score", "reason"), rows)
    return 3 if any(v.action in ("block", "error") for v in verdicts) else 0
