"""MBPP, sanitized: 257 short Python tasks with three tests each, after three worked examples; run in the sandbox."""

from __future__ import annotations

import ast
from typing import Any

from fivefold.errors import DataError, UsageError
from fivefold.evaluate.benchmarks._base import Benchmark, read_json, turns
from fivefold.evaluate.data import Source
from fivefold.types import Case

FILE = "sanitized-mbpp.json"
SOURCE = Source(
    folder="mbpp",
    files=(FILE,),
    origin="google-research/mbpp, as in shuaijiumei/emergent_misalignment_further_explore@fe9cc7a8b1ce:data",
    revision="fe9cc7a8b1ce",
    licence="CC-BY-4.0",
    hub="google-research-datasets/mbpp (sanitized) on the Hugging Face hub",
)
ASK = (
    "Write a Python function for this task. Answer with one code block.\n\n{task}\n\nIt must pass these tests:\n{tests}"
)
WORKED = (2, 3, 4)
TEST, TRAIN = range(11, 511), range(601, 975)


def cases(*, shots: int = 3) -> list[Case]:
    """Tasks 11 to 510, after the first `shots` of tasks 2, 3, 4, as in the paper."""
    return _cases(TEST, shots)


def train_cases(*, shots: int = 0) -> list[Case]:
    """Tasks 601 to 974, the paper's training split, after `shots` worked examples, none without."""
    return _cases(TRAIN, shots)


def _cases(tasks: range, shots: int) -> list[Case]:
    if not 0 <= shots <= len(WORKED):
        raise UsageError("mbpp: shots", expected=f"0 to {len(WORKED)}", got=shots)
    rows = {row["task_id"]: row for row in read_json(SOURCE, FILE)}
    worked = [(_ask(rows[i]), f"```python\n{rows[i]['code'].strip()}\n```") for i in WORKED[:shots]]
    return [
        Case(
            id=f"mbpp/{i}",
            messages=turns(*worked, ask=_ask(row)),
            suite="mbpp",
            metadata={
                "entry_point": _tested(row),
                "tests": "\n".join([*row["test_imports"], *row["test_list"]]) + "\n",
            },
        )
        for i, row in sorted(rows.items())
        if i in tasks
    ]


def _ask(row: dict[str, Any]) -> str:
    return ASK.format(task=row["prompt"], tests="\n".join(row["test_list"]))


def _tested(row: dict[str, Any]) -> str:
    """The function of the reference code that the tests call."""
    defined = {n.name for n in ast.walk(ast.parse(row["code"])) if isinstance(n, ast.FunctionDef)}
    called = [n.id for n in ast.walk(ast.parse(row["test_list"][0])) if isinstance(n, ast.Name) and n.id in defined]
    if not called:
        raise DataError(f"mbpp/{row['task_id']}: the tests call no function of the reference")
    return called[0]


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="Mostly Basic Python Problems (MBPP), sanitized",
        area="code",
        cases=cases,
        scorer="code_tests",
        metric="mbpp_pass_at_1",
        safer="higher",
        source=SOURCE,
        meaning=(
            "Share of tasks whose one greedy answer passes all their tests. The sanitized half of the test split "
            "(257 of 500), so numbers on the full split differ. The tests are shown, as in the paper, and can be "
            "matched without solving the task. Widely contaminated."
        ),
        citation="Austin et al. 2021, Program Synthesis with Large Language Models (arXiv:2108.07732)",
        cost="257 answers of up to 384 tokens, and about 0.2 s of sandbox each",
        max_new_tokens=384,
        needs=("sandbox",),
    )
