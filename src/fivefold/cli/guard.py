"""`fivefold guard`: what guards say of a text, and how good they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fivefold.cli.output import JsonFlag, ModelOption, console, print_json, table

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


@group.command()
def train(
    model: ModelOption = "smollm2",
    constitution: Annotated[
        Path | None, typer.Option("--constitution", help="A constitution of your own (YAML); the shipped one without.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="A model that checks the labels of what was written.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the guard and its records.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, say lists=12; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    json: JsonFlag = False,
) -> None:
    """Train a constitutional classifier: MODEL writes requests from the constitution, the text guard learns from them."""
    from fivefold.thread.constitutional_guard import train_constitutional_guard

    found = train_constitutional_guard(
        model, constitution=constitution, judge=judge, out=out, seed=seed, changes=settings or ()
    )
    if json:
        print_json(found)
        return
    console().print(f"{found['constitution']}: " + ", ".join(f"{n} {k}" for k, n in found["written"].items()))
    columns = [k for k in found["rows"][-1] if k not in ("trained on", "texts")]
    rows = [[r["trained on"], r["texts"], *(_number(r.get(c)) for c in columns)] for r in found["rows"]]
    table("Measured on requests that nothing was written from", ["trained on", "texts", *columns], rows)
    for name in ("path", "digest", "run"):
        console().print(f"{name} {found[name]}", markup=False, soft_wrap=True)


def _number(value: dict[str, Any] | None) -> str:
    if value is None or value["estimate"] is None:
        return "not measured"
    return f"{value['estimate']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
