"""promptfoo's JSON output (`promptfoo redteam eval -o results.json`, summary versions 2 and 3): failed assertions.

A result with `success: false` whose failure is an assertion (`failureReason` 1) is a hit; a provider's error
(`failureReason` 2, or `error` set without a reason) is none. `pluginId` names the weakness, `strategyId` the attack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.redteam.imports import Hit
from fivefold.redteam.imports import _safe as safe
from fivefold.types import Message

ASSERTION = 1


def read(path: Path) -> list[Hit]:
    """Every hit of the report."""
    document = safe.object_of(safe.document_of(path), str(path))
    results = document.get("results")
    if isinstance(results, dict):
        results = results.get("results")
    if not isinstance(results, list):
        raise DataError(f"{path} holds no results", expected="promptfoo's JSON output", got=", ".join(document)[:100])
    hits = []
    for i, item in enumerate(results):
        where = f"{path}: result {i}"
        row = safe.object_of(item, where)
        if _failed(row, where):
            hits.append(_hit(row, where))
    safe.bounded(len(hits), str(path))
    return hits


def _failed(row: Mapping[str, Any], where: str) -> bool:
    if not isinstance(row.get("success"), bool):
        raise DataError(f"{where}: success is neither true nor false", got=repr(row.get("success"))[:60])
    reason = row.get("failureReason")
    return row["success"] is False and (reason == ASSERTION if reason is not None else not row.get("error"))


def _hit(row: Mapping[str, Any], where: str) -> Hit:
    test = safe.object_of(row.get("testCase") or {}, where)
    notes = {**safe.object_of(test.get("metadata") or {}, where), **safe.object_of(row.get("metadata") or {}, where)}
    response = safe.object_of(row.get("response") or {}, where)
    provider = row.get("provider")
    name = provider.get("label") or provider.get("id") if isinstance(provider, dict) else provider
    return Hit(
        weakness=safe.name_of(notes.get("pluginId"), where, "assertion"),
        detector=safe.name_of(notes.get("strategyId"), where, "basic"),
        messages=safe.conversation(_messages(row, where), where),
        response=_shown(response.get("output"), where),
        model=safe.name_of(name, where, "unknown model"),
        request=safe.text_of(notes.get("goal"), where),
    )


def _messages(row: Mapping[str, Any], where: str) -> list[Message]:
    """The prompt as it was sent: a text, or a JSON list of messages."""
    prompt = row.get("prompt")
    raw = safe.text_of(prompt.get("raw") if isinstance(prompt, dict) else prompt, where)
    if raw.lstrip().startswith("["):
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value):
            return [safe.turn(m["role"], m.get("content"), where) for m in value]
    return [safe.turn("user", raw, where)]


def _shown(output: Any, where: str) -> str:
    return safe.text_of(output if isinstance(output, str) or output is None else json.dumps(output), where)
