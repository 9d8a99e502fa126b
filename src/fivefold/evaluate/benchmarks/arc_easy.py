"""ARC-Easy: grade-school science questions of the easier set."""

from __future__ import annotations

from fivefold.evaluate.benchmarks import _moonshot
from fivefold.evaluate.benchmarks._base import Benchmark
from fivefold.evaluate.benchmarks.arc_challenge import CITATION
from fivefold.types import Case

SOURCE = _moonshot.source(
    "arc-easy.json", licence="CC-BY-SA-4.0", hub="allenai/ai2_arc (ARC-Easy) on the Hugging Face hub"
)


def cases() -> list[Case]:
    """All questions."""
    return _moonshot.choice_cases("arc_easy", SOURCE)


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="AI2 Reasoning Challenge (ARC), easy set",
        area="capability",
        cases=cases,
        scorer="choice",
        metric="arc_easy_accuracy",
        safer="higher",
        source=SOURCE,
        meaning=(
            "Share of questions whose right option is the most likely continuation per byte (acc_norm of "
            "lm-evaluation-harness, same prompt, no worked examples); chance is about 0.25. Project Moonshot's "
            "copy may join splits, so a figure on the test split alone differs."
        ),
        citation=CITATION,
        cost="about 5,000 cases of about 50 tokens with four continuations each",
    )
