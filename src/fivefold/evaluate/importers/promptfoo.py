"""promptfoo: the JSON that `promptfoo eval -o results.json` writes. Each result has a provider, a prompt, a test case and
`success`; one run may hold several providers, and each becomes a suite of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.evaluate.importers import _base as base
from fivefold.types import digest

TOOL = "promptfoo"


def matches(path: Path) -> bool:
    """Whether its beginning has promptfoo's keys."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as stream:
        start = stream.read(65536)
    return b'"results"' in start and (b'"evalId"' in start or b'"promptIdx"' in start or b'"provider"' in start)


def read(path: Path) -> base.Imported:
    """Pass or fail of every test case by provider; what promptfoo marks as an error is Errored."""
    data = base.mapping(base.read_json(path), str(path))
    inner = data.get("results")
    listed = inner.get("results") if isinstance(inner, dict) else inner
    if not isinstance(listed, list):
        raise DataError(f"{path} has no list of results", got=type(listed).__name__)
    rows: dict[str, dict[str, base.ImportedRow]] = {}
    for place, item in enumerate(listed):
        where = f"{path}[{place}]"
        result = base.mapping(item, where)
        provider = _provider(result.get("provider"))
        row = base.ImportedRow(outcome=_outcome(result), behaviour=_id(result, with_prompt=False))
        base.add_row(rows.setdefault(provider, {}), _id(result), row, where)
    if not rows:
        raise DataError(f"{path} holds no results")
    metadata = data.get("metadata")
    version = metadata.get("promptfooVersion") if isinstance(metadata, dict) else None
    several = len(rows) > 1
    return base.Imported(
        tool=TOOL,
        files=(path,),
        tool_version=base.name(version) or "unknown",
        model="several providers" if several else next(iter(rows)),
        suites=tuple(
            base.ImportedSuite(
                suite=f"{path.stem} {provider}" if several else path.stem, metric="pass", safer="higher", rows=found
            )
            for provider, found in rows.items()
        ),
    )


def _outcome(result: Mapping[str, Any]) -> Any:
    judge = base.judge_of(TOOL, "pass")
    if result.get("failureReason") == 2 or (result.get("error") and result.get("gradingResult") is None):
        return base.errored(result.get("error"), judge)
    success = result.get("success")
    return base.score(success if isinstance(success, bool) else None, judge, base.text(result.get("error")))


def _provider(value: Any) -> str:
    return base.name(value.get("id") if isinstance(value, dict) else value) or "unknown"


def _id(result: Mapping[str, Any], *, with_prompt: bool = True) -> str:
    test = result.get("testIdx")
    label = f"test {test}" if isinstance(test, int) else digest(json.dumps(result.get("vars"), sort_keys=True))[:12]
    prompt = result.get("promptIdx")
    return f"{label}, prompt {prompt}" if with_prompt and isinstance(prompt, int) else label
