"""garak's `*.report.jsonl` (0.9 to 0.17): evaluated attempts whose detector score reaches the threshold.

Detector scores lie in [0, 1], higher is a hit; the run's own `eval_threshold` decides, 0.5 when it gives none.
Detectors that look for refusal words call an echo a hit, so nothing here is believed before it reproduces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.redteam.imports import Hit
from fivefold.redteam.imports import _safe as safe
from fivefold.types import Message

EVALUATED = 2
"""`status` of an attempt that detectors have looked at."""
THRESHOLD = 0.5


def read(path: Path) -> list[Hit]:
    """Every hit of the report."""
    model, threshold, attempts = "unknown model", THRESHOLD, 0
    hits: list[Hit] = []
    for where, entry in safe.lines_of(path):
        kind = entry.get("entry_type")
        if kind == "start_run setup":
            model = _model(entry, where)
            threshold = _number(entry.get("run.eval_threshold", THRESHOLD), where)
        elif kind == "attempt" and entry.get("status") == EVALUATED:
            attempts += 1
            hits += _hits(entry, model, threshold, where)
            safe.bounded(len(hits), where)
    if not attempts:
        raise DataError(f"{path} holds no evaluated attempt", expected="garak's report.jsonl, not its hitlog or digest")
    return hits


def _model(entry: Mapping[str, Any], where: str) -> str:
    kind = entry.get("plugins.target_type", entry.get("plugins.model_type"))
    name = entry.get("plugins.target_name", entry.get("plugins.model_name"))
    parts = [safe.name_of(part, where, "") for part in (kind, name)]
    return "/".join(p for p in parts if p) or "unknown model"


def _hits(entry: Mapping[str, Any], model: str, threshold: float, where: str) -> Iterator[Hit]:
    outputs = safe.list_of(entry.get("outputs"), where)
    results = safe.object_of(entry.get("detector_results") or {}, where)
    if not outputs or not results:
        return
    messages = safe.conversation(_turns(entry.get("prompt"), where), where)
    for detector, scores in results.items():
        for output, score in zip(outputs, safe.list_of(scores, where), strict=False):
            if score is None or _number(score, where) < threshold:
                continue
            yield Hit(
                weakness=safe.name_of(entry.get("probe_classname"), where, "unknown probe"),
                detector=safe.name_of(detector, where, "unknown detector"),
                messages=messages,
                response=_content(output, where),
                model=model,
            )


def _turns(prompt: Any, where: str) -> list[Message]:
    """Text, a message, or a conversation, as garak's versions write it."""
    if isinstance(prompt, str):
        return [safe.turn("user", prompt, where)]
    body = safe.object_of(prompt, where)
    if "turns" not in body:
        return [safe.turn("user", _content(body, where), where)]
    turns = [safe.object_of(t, where) for t in safe.list_of(body["turns"], where)]
    return [safe.turn(t.get("role"), _content(t.get("content"), where), where) for t in turns]


def _content(value: Any, where: str) -> str:
    return safe.text_of(value.get("text") if isinstance(value, dict) else value, where)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: a score is not a number", got=repr(value)[:60])
    return float(value)
