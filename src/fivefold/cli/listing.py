"""`fivefold list KIND`: what is registered."""

from __future__ import annotations

from typing import Annotated

import typer

from fivefold.cli.output import JsonFlag, print_json, table
from fivefold.errors import UnknownNameError
from fivefold.registry import KINDS, registry


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("list")(list_)


def list_(
    kind: Annotated[
        str, typer.Argument(help="attacks, guards, suites, benchmarks, losses, methods, scorers, gates, …")
    ],
    json: JsonFlag = False,
) -> None:
    """List what is available of a kind."""
    rows = _rows(kind)
    if json:
        print_json({kind: [{"name": n, "summary": s} for n, s in rows]})
        return
    table(kind, ("name", "what it is"), rows)


def _rows(kind: str) -> list[tuple[str, str]]:
    if kind == "suites":
        from fivefold.evaluate.suites import suite, suite_names

        return [(n, f"{len(suite(n).cases())} cases") for n in suite_names()]
    if kind == "benchmarks":
        from fivefold.evaluate.catalogue import entry, names

        return [(n, f"{entry(n).title}; runs: {entry(n).runs}; licence: {entry(n).licence}") for n in names()]
    if kind == "gates":
        from fivefold.govern.gate import GATES, read_gate

        return [(p.stem, read_gate(p.stem).description.strip()) for p in sorted(GATES.glob("*.yaml"))]
    if kind == "recipes":
        from fivefold.cli.align import recipes

        return recipes()
    kinds = {_plural(k): k for k in KINDS}
    if kind not in kinds:
        raise UnknownNameError("kind", kind, [*kinds, "suites", "gates", "recipes"])
    found = registry(kinds[kind])
    return [(n, found.summary(n)) for n in found.names()]


def _plural(kind: str) -> str:
    return kind + "es" if kind.endswith("s") else kind + "s"
