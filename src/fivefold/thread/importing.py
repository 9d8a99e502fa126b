"""Results of other tools in the store: as a run, marked as external, with the file itself kept by its hash.

An imported number is evidence that somebody reported it. Its subject is `external:` and the name that the tool gives, so
that no gate takes it for a measurement of a model whose weights are known here.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fivefold.errors import DataError, UnknownNameError
from fivefold.evaluate.importers._base import Imported, ImportedSuite
from fivefold.evidence import Store
from fivefold.evidence.artifacts import Artifact
from fivefold.stats import measure_mean, measure_rate
from fivefold.thread.outcomes import Row, SuiteOutcomes, add
from fivefold.types import Measurement, Scored, digest

TOOLS = {
    "inspect": "inspect",
    "lm-eval": "lm_eval",
    "helm": "helm",
    "openai-evals": "openai_evals",
    "garak": "garak",
    "promptfoo": "promptfoo",
}
"""Tool → module of `fivefold.evaluate.importers`."""


def import_results(store: Store, path: Path, tool: str | None = None) -> dict[str, Any]:
    """Read `path` (the tool is found from the file when it is not given) and record a run of it.

    The run's name is a digest of the file, so the same file is the same run. DataError for what cannot be read.
    """
    chosen = _tool(path, tool)
    found: Imported = importlib.import_module(f"fivefold.evaluate.importers.{TOOLS[chosen]}").read(path)
    kept = _kept(store, found.files, path.name)
    run = f"import-{kept.digest[:12]}"
    provenance = {
        "tool": found.tool,
        "tool_version": found.tool_version,
        "file": path.name,
        "sha256": kept.digest,
        "model": found.model,
    }
    store.append_once("import", {**provenance, "external": True, "notes": list(found.notes)}, run=run)
    measurements = [_record(store, found, suite, run, provenance) for suite in found.suites]
    return {
        "run": run,
        "tool": found.tool,
        "external": True,
        "provenance": provenance,
        "measurements": measurements,
        "findings": [],
        "notes": list(found.notes),
    }


def _tool(path: Path, tool: str | None) -> str:
    if tool is not None:
        if tool not in TOOLS:
            raise UnknownNameError("tool", tool, TOOLS)
        return tool
    if not path.exists():
        raise DataError(f"no file {path}")
    for name, module in TOOLS.items():
        if importlib.import_module(f"fivefold.evaluate.importers.{module}").matches(path):
            return name
    raise DataError(
        f"{path} is no result file that is known", expected=", ".join(TOOLS), next_step="name the tool with --from"
    )


def _kept(store: Store, files: Sequence[Path], name: str) -> Artifact:
    """What was read, and nothing beside it, by its hash: a file, or a folder of several."""
    if len(files) == 1:
        return store.put_artifact(files[0], name=name, media_type="application/octet-stream")
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            shutil.copyfile(file, Path(folder) / file.name)
        return store.put_artifact(Path(folder), name=name, media_type="application/octet-stream")


def _record(store: Store, found: Imported, suite: ImportedSuite, run: str, provenance: dict[str, Any]) -> Measurement:
    outcomes = [row.outcome for row in suite.rows.values()]
    judge = next((o.judge for o in outcomes), "")
    several = sum(s.suite == suite.suite for s in found.suites) > 1
    name = f"{suite.suite}/{suite.metric}" if several else suite.suite
    add(
        store,
        SuiteOutcomes(
            run=run,
            suite=name,
            metric=suite.metric,
            safer=suite.safer,
            subject=f"external:{found.model}",
            subject_name=found.model,
            judge=judge,
            rows={
                id: Row(
                    outcome=row.outcome,
                    behaviour=row.behaviour,
                    category=row.category,
                    language=row.language,
                    minutes=row.minutes,
                )
                for id, row in suite.rows.items()
            },
            settings=suite.settings,
            external=found.tool,
            provenance=provenance,
        ),
    )
    common: dict[str, Any] = {
        "metric": suite.metric,
        "subject": f"external:{found.model}",
        "subject_name": found.model,
        "safer": suite.safer,
        "clusters": [row.behaviour or id for id, row in suite.rows.items()],
        "slice": {"suite": name},
        "dataset": digest(sorted(suite.rows)),
        "judge": judge,
        "run": run,
        "metadata": {"external": provenance, "suite": name, "settings": dict(suite.settings)},
    }
    rates = all(0 <= o.value <= 1 for o in outcomes if isinstance(o, Scored))
    made = measure_rate(outcomes, **common) if rates else measure_mean(outcomes, unit="score", **common)
    return store.add_measurement(made)
