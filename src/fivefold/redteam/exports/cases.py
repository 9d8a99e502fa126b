"""Regression cases: one JSON object a stored case, as `fivefold evaluate --cases FILE` takes them.

`metadata` carries the finding's id and state and, where a check decides instead of a judge, the check. A case that
needs a prefill cannot be asked by an evaluation and is left to `fivefold findings replay`; an export in which nothing
is left is an error, never an empty file that looks clean.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from fivefold.errors import DataError
from fivefold.redteam.exports import ExportContext
from fivefold.types import Finding, plain


def export(findings: Sequence[Finding], context: ExportContext) -> str:
    """The cases as JSONL text; DataError when no finding has a case that an evaluation can ask."""
    lines = [
        json.dumps(
            {
                "id": f"{finding.id}/{i}",
                "messages": [{"role": m.role, "content": m.content} for m in case.messages],
                "behaviour": finding.behaviours[0] if finding.behaviours else finding.id,
                "category": finding.category,
                "language": finding.language,
                "tags": ["regression", finding.status],
                "metadata": {
                    "finding": finding.id,
                    "attack": finding.attack,
                    "check": plain(case.check),
                    "attack_prompt": case.messages[-1].content,
                },
            },
            ensure_ascii=False,
        )
        for finding in findings
        for i, case in enumerate(finding.reproductions)
        if not case.prefill
    ]
    if not lines:
        raise DataError("no finding has a case that an evaluation can ask", next_step="fivefold findings replay")
    return "\n".join(lines) + "\n"
