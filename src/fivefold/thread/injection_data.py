"""Public injection data as cases of the system attacks: read from the mirror, checked by hash, never copied.

`bipia`: the text attacks whose success a string can tell, for `inject_document`, `inject_email` and the like.
`ipi_coding_agent`: repositories with an order in an issue, a comment, a README or a configuration, for
`inject_repository`; a command that matches the sample's indicator is the order followed.
"""

from __future__ import annotations

from typing import Any

from fivefold.errors import DataError, UnknownNameError
from fivefold.evaluate.benchmarks import bipia
from fivefold.evaluate.benchmarks._base import read_json
from fivefold.evaluate.data import Source
from fivefold.types import Case, user_case

IPI = Source(
    folder="inspect-ipi-coding-agent",
    files=("samples.json",),
    origin="PyPI inspect-evals 0.26.0: inspect_evals/ipi_coding_agent/dataset",
    revision="0.26.0",
    licence="MIT",
    hub="UKGovernmentBEIS/inspect_evals on GitHub",
)
NAMES = ("bipia", "ipi_coding_agent")


def injection_cases(name: str, *, limit: int | None = None) -> tuple[Case, ...]:
    """Cases of a data set by name."""
    key = name.replace("-", "_")
    if key not in NAMES:
        raise UnknownNameError("injection data", name, NAMES)
    found = _bipia() if key == "bipia" else _ipi()
    if not found:
        raise DataError(f"{name} holds no case that can be told without a judge")
    return tuple(found[:limit])


def _bipia() -> list[Case]:
    return [
        user_case(
            f"bipia/attack/{i}",
            instruction,
            suite="bipia",
            behaviour=f"bipia/attack/{i}",
            category=category,
            metadata={"injection": instruction, "success": {"contains": canary}},
        )
        for i, (category, instruction, canary) in enumerate(bipia.checkable_attacks())
    ]


def _ipi() -> list[Case]:
    rows: list[dict[str, Any]] = read_json(IPI, "samples.json")
    return [
        user_case(
            f"ipi/{row['id']}",
            row["task_description"],
            suite="ipi_coding_agent",
            behaviour=f"ipi/{row['id']}",
            category=row["payload_category"],
            metadata={
                "files": row["repo_files"],
                "issue": row["issue_text"],
                "check": {"kind": "tool", "tools": ["run_command"], "pattern": row["payload_indicator"]},
            },
        )
        for row in rows
        if not row["is_benign"]
    ]
