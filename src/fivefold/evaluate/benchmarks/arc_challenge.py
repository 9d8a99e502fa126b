"""ARC-Challenge: 2,590 grade-school science questions that retrieval and word counts get wrong."""

from __future__ import annotations

from fivefold.evaluate.benchmarks import _moonshot
from fivefold.evaluate.benchmarks._base import Benchmark
from fivefold.types import Case

SOURCE = _moonshot.source(
    "arc-challenge.json", licence="CC-BY-SA-4.0", hub="allenai/ai2_arc (ARC-Challenge) on the Hugging Face hub"
)
CITATION = "Clark et al. 2018, Think you have Solved Question Answering? Try ARC (arXiv:1803.05457)"


def cases() -> list[Case]:
    """All questions."""
    return _moonshot.choice_cases("arc_challenge", SOURCE)


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="AI2 Reasoning Challenge (ARC), challenge set",
        area="capability",
        cases=cases,
        scorer="choice",
        metric="arc_challenge_accuracy",
        safer="higher",
        source=SOURCE,
        meaning=(
            "Share of questions whose right option is the most likely continuation per byte (acc_norm of "
            "lm-evaluation-harness, same prompt, no worked examples); chance is about 0.25. Project Moonshot's "
            "copy joins the train, validation and test splits (2,590 questions), so a figure on the 1,172 of the "
            "test split differs."
        ),
        citation=CITATION,
        cost="2,590 cases of about 60 tokens with four continuations each",
    )
