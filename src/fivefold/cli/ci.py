"""One build: evaluate, compare, write the files that a build server shows. `python -m fivefold.cli.ci`.

The GitHub Action (`action.yml`) is this module with its inputs as environment variables (`FF_MODEL`, `FF_SUITES`,
`FF_CASES`, `FF_SCORER`, `FF_LIMIT`, `FF_AGAINST`, `FF_MARGIN`, `FF_OUT`); any other build server can run it alike. It
calls the commands that a person would, and ends with the comparison's exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fivefold.errors import FivefoldError, UsageError


def main() -> None:
    """Run a build from the environment and exit with its code."""
    try:
        code = build(os.environ)
    except FivefoldError as error:
        print(f"error: {error.render()}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


def build(env: Mapping[str, str]) -> int:
    """Evaluate, compare with `FF_AGAINST` or the last accepted run, write files; 0, 3 (regression) or 4 (undecided).

    Files in `FF_OUT`: `measurements.json`, `outcomes.csv`, `junit.xml` (cases), `findings.sarif`, `summary.md`, and
    `comparison.xml` where there was something to compare with. The summary is added to GitHub's when there is one.
    """
    from fivefold.evidence import Store
    from fivefold.thread import exports
    from fivefold.thread.accept import accepted
    from fivefold.thread.compare import EXIT_CODES, compare_runs
    from fivefold.thread.outcomes import load

    result = _evaluate(env)
    run, out = str(result["run"]), Path(env.get("FF_OUT") or "fivefold-results")
    margin = _number(env, "FF_MARGIN")
    with Store.open() as store:
        outcomes = load(store, run)
        exports.write(exports.to_json(exports.measurement_rows(result["measurements"])), out / "measurements.json")
        exports.write(exports.to_csv(exports.outcome_rows(outcomes)), out / "outcomes.csv")
        exports.write(exports.junit_of_run(outcomes), out / "junit.xml")
        exports.write(exports.sarif(store.findings()), out / "findings.sarif")
        against = env.get("FF_AGAINST", "").strip() or accepted(store)
        text, verdict, code = "", "none", 0
        if against and against != run:
            compared = compare_runs(store, against, run, margin=margin)
            verdict, code = compared["verdict"], EXIT_CODES[compared["verdict"]]
            text = exports.markdown_of_comparison(compared) + "\n"
            exports.write(exports.junit_of_comparison(compared), out / "comparison.xml")
    risks = "".join(f"- at risk: {line}\n" for line in result["at_risk"])
    summary = f"{text}{exports.markdown_of_measurements(_headline(result))}\n{risks}"
    exports.write(summary.encode(), out / "summary.md")
    _append(env.get("GITHUB_STEP_SUMMARY"), summary)
    _append(env.get("GITHUB_OUTPUT"), f"run={run}\nverdict={verdict}\n")
    print(summary)
    return code


def _evaluate(env: Mapping[str, str]) -> dict[str, Any]:
    from fivefold.thread.single import evaluate_model

    model, cases = env.get("FF_MODEL", "").strip(), env.get("FF_CASES", "").strip()
    if not model:
        raise UsageError("no model was named", next_step="set FF_MODEL (the action's input `model`)")
    limit = _number(env, "FF_LIMIT")
    return evaluate_model(
        model,
        [] if cases else env.get("FF_SUITES", "").split(),
        cases=Path(cases) if cases else None,
        scorer=env.get("FF_SCORER", "").strip() or None,
        split=None,
        languages=None,
        limit=None if limit is None else int(limit),
        max_new_tokens=None,
        seed=0,
    )


def _headline(result: Mapping[str, Any]) -> list[Any]:
    """Overall numbers and those by language; categories stay in the files."""
    return [m for m in result["measurements"] if set(m.slice) <= {"language", "suite"}]


def _number(env: Mapping[str, str], name: str) -> float | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise UsageError(f"{name} is not a number above 0", got=text[:40])
    return value


def _append(path: str | None, text: str) -> None:
    if path:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(text)


if __name__ == "__main__":
    main()
