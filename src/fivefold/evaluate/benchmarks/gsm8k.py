"""GSM8K: 1,319 grade-school word problems; the model reasons in words and its final number is compared."""

from __future__ import annotations

import re

from fivefold.errors import UsageError
from fivefold.evaluate.benchmarks._base import Benchmark, read_jsonl, turns
from fivefold.evaluate.data import Source
from fivefold.types import Case

SOURCE = Source(
    folder="gsm8k",
    files=("test.jsonl", "train.jsonl"),
    origin="openai/grade-school-math@3101c7d50724",
    revision="3101c7d50724",
    licence="MIT",
    hub="openai/gsm8k on the Hugging Face hub",
)
ASK = "Solve this problem step by step and end with a line '#### ' and the number.\n\n{}"
_CALCULATOR = re.compile(r"<<[^>]*>>")


def cases(*, shots: int = 5) -> list[Case]:
    """The test problems, after the first `shots` problems of the training file as turns of a conversation."""
    return _cases("test.jsonl", "gsm8k/", shots)


def train_cases(*, shots: int = 0) -> list[Case]:
    """The training problems but the first `shots`, which stand before each as worked examples."""
    return _cases("train.jsonl", "gsm8k/train/", shots)[shots:]


def _cases(file: str, name: str, shots: int) -> list[Case]:
    if not 0 <= shots <= 32:
        raise UsageError("gsm8k: shots", expected="0 to 32", got=shots)
    worked = [
        (ASK.format(r["question"]), _CALCULATOR.sub("", r["answer"])) for r in read_jsonl(SOURCE, "train.jsonl")[:shots]
    ]
    return [
        Case(
            id=f"{name}{i}",
            messages=turns(*worked, ask=ASK.format(row["question"])),
            suite="gsm8k",
            target=row["answer"].rsplit("####", 1)[1].strip(),
        )
        for i, row in enumerate(read_jsonl(SOURCE, file))
    ]


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="Grade School Math 8K (GSM8K), test split",
        area="capability",
        cases=cases,
        scorer="number",
        metric="gsm8k_accuracy",
        safer="higher",
        source=SOURCE,
        meaning=(
            "Share of word problems whose final number is right; the reasoning is not judged. Worked examples are"
            " given as turns of a conversation through the chat template, the first five of the training file "
            "without their calculator marks; lm-evaluation-harness draws five at random into one text, so single "
            "points may differ. Answers that are cut at the token limit count as wrong. Widely contaminated "
            "(Zhang et al. 2024, GSM1k)."
        ),
        citation="Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems (arXiv:2110.14168)",
        cost="1,319 answers of up to 256 tokens; the worked examples (about 700 tokens) are shared",
        max_new_tokens=256,
    )
