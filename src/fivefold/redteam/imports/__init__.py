"""Reports of other red-team tools as findings to replay, one file a format: each has `read(path) -> list[Hit]`.

A report is hostile input: its size, its shape and every text are checked, nothing in it is executed or followed. What
the other tool calls a success is a claim: the finding is open with the reason "imported", and a replay with this
project's judge (the shipped rules, unless another is named) says whether it reproduces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from fivefold.errors import DataError, UnknownNameError
from fivefold.redteam.severity import assess
from fivefold.types import Finding, Message, Reproduction, Taxonomy
from fivefold.types.language import language_of

FORMATS = ("garak", "promptfoo", "pyrit")
KEPT_CASES = 8
JUDGE = "refusal"
"""Whose word counts here, since the other tool's detector is not at hand."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One success that another tool claims. `weakness` and `detector` are its names of what was found, `request` the
    goal in plain words where it gives one."""

    weakness: str
    detector: str
    messages: tuple[Message, ...]
    response: str
    model: str
    request: str = ""


def import_findings(path: Path, format: str, *, run: str) -> list[Finding]:
    """Findings of a report, one for each (model, weakness, detector, language), with the shortest cases kept."""
    if format not in FORMATS:
        raise UnknownNameError("import format", format, FORMATS)
    hits = cast("list[Hit]", import_module(f"fivefold.redteam.imports.{format}").read(path))
    if not hits:
        raise DataError(
            f"{path} reports no success",
            expected=f"a {format} report with at least one hit",
            next_step="nothing is to be replayed; that is no proof of safety",
        )
    groups: dict[tuple[str, str, str, str], list[Hit]] = {}
    for hit in hits:
        language = language_of(hit.request or hit.messages[-1].content)
        groups.setdefault((hit.model, hit.weakness, hit.detector, language), []).append(hit)
    return [_finding(key, found, format, run) for key, found in sorted(groups.items())]


def _finding(key: tuple[str, str, str, str], hits: Sequence[Hit], format: str, run: str) -> Finding:
    model, weakness, detector, language = key
    distinct = {h.messages: h for h in reversed(hits)}
    kept = sorted(distinct.values(), key=lambda h: sum(len(m.content) for m in h.messages))[:KEPT_CASES]
    severity, reason = assess(weakness, queries=1, hits=len(hits), tried=0)
    return Finding(
        id="FF-" + hashlib.sha256("|".join(("imported", format, *key)).encode()).hexdigest()[:8],
        title=f"{weakness} by {detector}, reported by {format} ({language})"[:200],
        category=weakness[:100],
        language=language,
        attack=f"imported:{format}",
        taxonomy=Taxonomy(surface="user prompt", technique=f"reported by {format}: {weakness}"[:200]),
        severity=severity,
        severity_reason=f"{reason}; claimed by {format}'s {detector}, not yet reproduced here"[:300],
        behaviours=tuple(sorted({(h.request or h.messages[-1].content)[:120] for h in kept})),
        reproductions=tuple(Reproduction(messages=h.messages, response=h.response, request=h.request) for h in kept),
        subject=f"imported:{model}"[:200],
        history=(("open", run, f"imported from a {format} report of {len(hits)} hit(s), not yet reproduced"),),
        run=run,
        judge=JUDGE,
    )
