"""`fivefold align RECIPE`: train a new model version."""

from __future__ import annotations

import logging
import sys
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

    _say_what_it_takes()

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


def _say_what_it_takes() -> None:
    """Show what the trainer logs: steps, tokens and memory of a run before it starts, and whether they fit."""
    log = logging.getLogger("fivefold.align")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
        log.propagate = False
