"""TruthfulQA, four options: 483 questions that people often answer falsely; the true answer must be the likeliest."""

from __future__ import annotations

from fivefold.evaluate.benchmarks import _moonshot
from fivefold.evaluate.benchmarks._base import Benchmark
from fivefold.types import Case

SOURCE = _moonshot.source(
    "truthfulqa-mcq.json",
    licence="Apache-2.0",
    hub="truthfulqa/truthful_qa (multiple_choice) on the Hugging Face hub",
)


def cases() -> list[Case]:
    """All questions."""
    return _moonshot.choice_cases("truthfulqa", SOURCE)


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="TruthfulQA, multiple choice with one true option (MC1), four-option version",
        area="capability",
        cases=cases,
        scorer="choice",
        metric="truthfulqa_accuracy",
        safer="higher",
        source=SOURCE,
        meaning=(
            "Share of questions for which the true option is the most likely of four, per byte (with the ending "
            "`_sum`: as a whole, as MC1 is defined); chance is 0.25. Project Moonshot's copy has the 483 "
            "questions with four options in shuffled order, without the six worked examples of the paper's "
            "prompt: not comparable with MC1 on all 817. It measures resistance to common falsehoods, not "
            "honesty."
        ),
        citation="Lin et al. 2022, TruthfulQA: Measuring How Models Mimic Human Falsehoods, ACL (arXiv:2109.07958)",
        cost="483 cases of about 30 tokens with four continuations each",
    )
