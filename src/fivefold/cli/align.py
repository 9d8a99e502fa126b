"""`fivefold align RECIPE`: train a new model version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fivefold.cli.output import JsonFlag, ModelOption, console, error_console, print_json


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(align)


def align(
    recipe: Annotated[str, typer.Argument(help="A recipe (fivefold list recipes).")],
    model: ModelOption = "smollm2",
    data: Annotated[
        Path | None, typer.Option("--data", help="JSONL of training data; the recipe's own when left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the adapter.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="At most this many pairs, problems or requests (patch: behaviours a language)."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the recipe, say rl.rounds=4; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    json: JsonFlag = False,
) -> None:
    """Train MODEL with a recipe; the result is a model version with its parent recorded."""
    from fivefold.thread.opened import align_model

    def watch(stage: str, step: int, total: int, value: float) -> None:
        error_console().print(f"{stage} {step}/{total} {value:.3f}", markup=False)

    result = align_model(
        recipe, model, data=data, out=out, limit=limit, seed=seed, changes=settings or (), on_step=watch
    )
    if json:
        print_json(result)
        return
    for sentence in result["sentences"]:
        console().print(sentence, markup=False)
    console().print(f"adapter {result['adapter']}\nversion {result['version']}", markup=False, soft_wrap=True)
