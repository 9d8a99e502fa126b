"""`fivefold list KIND`: what is registered."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fivefold.cli.output import JsonFlag, console, print_json, table
from fivefold.errors import UnknownNameError
from fivefold.registry import KINDS, registry


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("list")(list_)


def list_(
    kind: Annotated[
        str, typer.Argument(help="attacks, guards, suites, benchmarks, losses, methods, scorers, gates, …")
    ],
    name: Annotated[
        str | None, typer.Argument(help="One of them, in full: for a benchmark its source, needs, cost and meaning.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """List what is available of a kind, or say everything about one."""
    if name is not None:
        _show(kind, name, json)
        return
    if kind in ("benchmarks", "evaluations"):
        _list_evaluations(kind, json)
        return
    rows = _rows(kind)
    if json:
        print_json({kind: [{"name": n, "summary": s} for n, s in rows]})
        return
    table(kind, ("name", "what it is"), rows)


def _list_evaluations(kind: str, json: bool) -> None:
    """The catalogue, or of it what this project wrote."""
    from fivefold.evaluate.catalogue import entry, names

    ours = registry("evaluation").names()
    entries = [entry(n) for n in (ours if kind == "evaluations" else names())]
    if json:
        print_json({kind: [{**e.model_dump(), "summary": e.title} for e in entries]})
        return
    rows = [(e.name, e.title, e.runs, " ".join(e.needs) or "nothing", e.licence, e.cost) for e in entries]
    table(kind, ("name", "what it is", "runs", "needs", "licence", "cost"), rows)
    console().print(
        f"fivefold list {kind} NAME says what a score means, where its data comes from, what is missing here"
    )


def _show(kind: str, name: str, json: bool) -> None:
    """Everything about one: an entry of the catalogue, a suite's datasheet, or an extension's own description."""
    if kind in ("benchmarks", "evaluations"):
        facts = _entry_facts(name)
    elif kind == "suites":
        from fivefold.evaluate.suites import suite

        facts = {"name": name, "datasheet": suite(name).datasheet}
    else:
        known = {_plural(k): k for k in KINDS}
        if kind not in known:
            raise UnknownNameError("kind", kind, [*known, "suites", "benchmarks"])
        facts = {"name": name, "description": (registry(known[kind]).module(name).__doc__ or "").strip()}
    if json:
        print_json(facts)
        return
    for key, value in facts.items():
        lines = list(value) if isinstance(value, list | tuple) else [value]
        for line in lines or ["nothing"]:
            console().print(f"{key.replace('_', ' ')}: {line}", markup=False, soft_wrap=True)


def _entry_facts(name: str) -> dict[str, Any]:
    from fivefold.evaluate.catalogue import entry, runnable

    found = entry(name)
    facts = {k: v for k, v in found.model_dump().items() if v not in ("", None, (), {})}
    facts["needs"] = list(found.needs)
    facts["missing_here"] = runnable(name)
    facts["start"] = f"fivefold evaluate {found.name} --model MODEL"
    return facts


def _rows(kind: str) -> list[tuple[str, str]]:
    if kind == "suites":
        from fivefold.evaluate.suites import suite, suite_names

        return [(n, f"{len(suite(n).cases())} cases") for n in suite_names()]
    if kind == "gates":
        from fivefold.govern.gate import GATES, read_gate

        return [(p.stem, read_gate(p.stem).description.strip()) for p in sorted(GATES.glob("*.yaml"))]
    if kind == "recipes":
        from fivefold.cli.align import recipes

        return recipes()
    if kind == "rewards":
        from fivefold.cli.align import rewards

        return rewards()
    kinds = {_plural(k): k for k in KINDS}
    if kind not in kinds:
        raise UnknownNameError("kind", kind, [*kinds, "suites", "gates", "recipes", "rewards"])
    found = registry(kinds[kind])
    return [(n, found.summary(n)) for n in found.names()]


def _plural(kind: str) -> str:
    return kind + "es" if kind.endswith("s") else kind + "s"
