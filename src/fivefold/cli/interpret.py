"""`fivefold interpret METHOD`: look inside an open model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fivefold.cli.output import JsonFlag, LimitOption, ModelOption, console, print_json, table


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(interpret)


def interpret(
    method: Annotated[str, typer.Argument(help="layer_sweep, difference_of_means, linear_probe, logit_lens, …")],
    model: ModelOption = "smollm2",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write the artifact.")] = None,
    limit: LimitOption = None,
    json: JsonFlag = False,
) -> None:
    """Find the harmfulness direction of MODEL and how well it separates held-out prompts, layer by layer."""
    from fivefold.thread.opened import interpret_model

    result = interpret_model(method, model, limit=limit, out=out)
    if json:
        print_json(result)
        return
    rows = [
        (r["layer"], r["method"], f"{r['auroc']:.3f}", f"[{r['low']:.3f}, {r['high']:.3f}]") for r in result["rows"]
    ]
    table(f"{method} on {model}", ("layer", "method", "AUROC", "interval"), rows)
    for sentence in result["sentences"]:
        console().print(sentence, markup=False)
