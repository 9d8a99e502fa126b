"""HumanEval: 164 Python functions to complete from their docstrings; hidden tests run in the sandbox."""

from __future__ import annotations

from fivefold.evaluate.benchmarks._base import Benchmark, read_jsonl
from fivefold.evaluate.data import Source
from fivefold.types import Case, user_case

FILE = "HumanEval.jsonl.gz"
SOURCE = Source(
    folder="humaneval",
    files=(FILE,),
    origin="openai/human-eval@6d43fb980f9f",
    revision="6d43fb980f9f",
    licence="MIT",
    hub="openai/openai_humaneval on the Hugging Face hub",
)
ASK = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{}```"


def cases() -> list[Case]:
    """All problems."""
    return [
        user_case(
            row["task_id"],
            ASK.format(row["prompt"]),
            suite="humaneval",
            metadata={
                "prefix": row["prompt"],
                "entry_point": row["entry_point"],
                "tests": f"{row['test']}\n\ncheck({row['entry_point']})\n",
            },
        )
        for row in read_jsonl(SOURCE, FILE)
    ]


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="HumanEval",
        area="code",
        cases=cases,
        scorer="code_tests",
        metric="humaneval_pass_at_1",
        safer="higher",
        source=SOURCE,
        meaning=(
            "Share of functions whose one greedy answer passes the hidden tests (pass@1 with one sample). Asked "
            "as an instruction; a bare continuation of the function counts as well. The tests are thin: with "
            "those of HumanEval+ pass rates fall by up to 19 to 29 per cent (Liu et al. 2023). Widely "
            "contaminated."
        ),
        citation="Chen et al. 2021, Evaluating Large Language Models Trained on Code (arXiv:2107.03374)",
        cost="164 answers of up to 512 tokens, and about 0.2 s of sandbox each",
        max_new_tokens=512,
        needs=("sandbox",),
    )
