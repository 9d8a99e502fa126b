"""`fivefold compare`, `accept`, `export`, `import`: runs beside each other, and out of and into the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fivefold.cli.output import JsonFlag, console, measurement_json, print_json, table
from fivefold.errors import UsageError

RunArgument = Annotated[str, typer.Argument(help="RUN or RUN:VERSION, say smollm2-1a2b3c4d:base.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of the screen.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(compare)
    app.command()(accept)
    app.command()(export)
    app.command("import")(import_)


def compare(
    run_a: RunArgument,
    run_b: Annotated[str, typer.Argument(help="The newer one.")],
    alpha: Annotated[float, typer.Option("--alpha", help="Chance of any false regression, over all tests.")] = 0.05,
    margin: Annotated[
        float | None, typer.Option("--margin", help="Ask for proof that no rate is worse by this much.")
    ] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Compare runs that were not asked alike.")
    ] = False,
    format: Annotated[str | None, typer.Option("--format", help="markdown or junit.")] = None,
    out: OutOption = None,
    json: JsonFlag = False,
) -> int:
    """Compare two runs or versions on the same cases: flipped cases first, paired tests after.

    All tests are one family (Holm). Exit code 3 for a regression, 4 where --margin could not be shown.
    """
    from fivefold.evidence import Store
    from fivefold.thread.compare import EXIT_CODES, compare_runs

    if format not in (None, "markdown", "junit"):
        raise UsageError("unknown format of a comparison", expected="markdown or junit", got=format)
    with Store.open() as store:
        result = compare_runs(store, run_a, run_b, alpha=alpha, margin=margin, allow_different=allow_different)
    if format is not None:
        _write(_rendered(result, format), out)
    elif json:
        print_json(result)
    else:
        print_comparison(result)
    return EXIT_CODES[result["verdict"]]


def _rendered(result: Mapping[str, Any], format: str) -> bytes:
    from fivefold.thread.exports import junit_of_comparison, markdown_of_comparison

    return junit_of_comparison(result) if format == "junit" else markdown_of_comparison(result).encode()


def print_comparison(result: Mapping[str, Any]) -> None:
    """A comparison for people."""
    from fivefold.thread.exports import sentence

    if result["verdict"] == "not compared":
        console().print(f"not compared with {result['a']}: {result['reason']}", markup=False)
        return
    flips = [(f["suite"], f["case"], f["a"], f["b"], "worse" if f["worse"] else "") for f in result["flipped"]]
    table("Flipped cases", ("suite", "case", "from", "to", ""), flips or [("none", "", "", "", "")])
    rows = [_row(c) for c in result["comparisons"]]
    columns = ("suite", "metric", "language", "n", "difference", "interval", "p (Holm)", "would find", "verdict")
    table(f"{result['b']} minus {result['a']}, paired", columns, rows)
    for row in result["comparisons"]:
        if row["verdict"] in ("regression", "undecided"):
            console().print(f"{row['verdict']}: {sentence(row)}", markup=False)
    for line in (*result["different"], *(f"imported: {tool}" for tool in result["external"])):
        console().print(f"note: {line}", markup=False)
    console().print(f"{result['verdict']} ({result['family']} tests in one family)", markup=False)


def _row(c: Mapping[str, Any]) -> tuple[object, ...]:
    interval = "" if c["low"] is None or c["high"] is None else f"[{c['low']:+.3f}, {c['high']:+.3f}]"
    found = "" if c["detectable"] is None else f"{c['detectable']:.3f}"
    numbers = (c["n"], f"{c['difference']:+.3f}", interval, f"{c['p_adjusted']:.3g}", found)
    return (c["suite"], c["metric"], c["language"], *numbers, c["verdict"])


def accept(
    run: RunArgument,
    owner: Annotated[str, typer.Option("--owner", help="Who accepts it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "",
    json: JsonFlag = False,
) -> None:
    """Make RUN what later runs are compared with; signed."""
    from fivefold.evidence import Store
    from fivefold.thread.accept import accept as accept_run

    with Store.open() as store:
        record = accept_run(store, run, owner=owner, reason=reason)
    if json:
        print_json({"record": record.id, **record.body})
        return
    text = f"accepted {run}; later evaluations of its suites are compared with it (record {record.id[:12]})"
    console().print(text, markup=False)


def export(
    run: RunArgument,
    format: Annotated[str, typer.Option("--format", "-f", help="csv, json, parquet, junit, sarif or markdown.")],
    what: Annotated[str, typer.Option("--what", help="measurements or outcomes, for csv, json and parquet.")] = (
        "measurements"
    ),
    out: OutOption = None,
) -> None:
    """Write what a run found for another program: rows, JUnit of its cases, SARIF of its findings, a Markdown table."""
    from fivefold.evidence import Store
    from fivefold.thread import exports
    from fivefold.thread.outcomes import load

    exports.check_format(format)
    if what not in ("measurements", "outcomes"):
        raise UsageError("unknown rows", expected="measurements or outcomes", got=what)
    name = run.partition(":")[0]
    with Store.open() as store:
        if format == "sarif":
            data = exports.sarif(store.findings(run=name))
        elif format == "junit":
            data = exports.junit_of_run(load(store, run))
        elif format == "markdown":
            data = exports.markdown_of_measurements(_measurements(store, name)).encode()
        elif what == "outcomes":
            data = exports.TABLES[format](exports.outcome_rows(load(store, run)))
        else:
            data = exports.TABLES[format](exports.measurement_rows(_measurements(store, name)))
    _write(data, out)


def _measurements(store: Any, run: str) -> list[Any]:
    from fivefold.errors import UnknownNameError
    from fivefold.thread.outcomes import known_runs

    found: list[Any] = store.measurements(run=run)
    if not found:
        raise UnknownNameError("run", run, known_runs(store), next_step="fivefold measurements lists runs")
    return found


def _write(data: bytes, out: Path | None) -> None:
    import sys

    from fivefold.thread.exports import write

    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    console().print(f"wrote {write(data, out)}", markup=False, soft_wrap=True)


def import_(
    path: Annotated[Path, typer.Argument(help="A result file, or a folder of HELM's.")],
    tool: Annotated[
        str | None, typer.Option("--from", help="inspect, lm-eval, helm, openai-evals, garak or promptfoo.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Read another tool's results into the store as a run, marked as external: evidence of what somebody reported."""
    from fivefold.evidence import Store
    from fivefold.thread.importing import import_results

    with Store.open() as store:
        result = import_results(store, path, tool)
    if json:
        print_json({**result, "measurements": [measurement_json(m) for m in result["measurements"]]})
        return
    rows = [
        (m.metric, m.slice.get("suite", ""), "not measured" if m.estimate is None else f"{m.estimate:.3f}", m.n_scored)
        for m in result["measurements"]
    ]
    table(f"Imported from {result['tool']}: {path.name}", ("metric", "suite", "estimate", "scored"), rows)
    for note in result["notes"]:
        console().print(f"note: {note}", markup=False)
    console().print(f"run: {result['run']}  (external: not measured here)", markup=False)
