"""MMLU: 14,042 four-option questions in 57 subjects; the model picks the letter, after five worked examples."""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.evaluate.benchmarks import _mmlu
from fivefold.evaluate.benchmarks._base import Benchmark
from fivefold.types import Case

OPENING = "The following are multiple choice questions (with answers) about {}."


def cases(*, shots: int = 5, subjects: Sequence[str] = ()) -> list[Case]:
    """All test questions of these subjects (none given: all), after `shots` questions of the subject's dev file."""
    return _mmlu.cases_in_form("mmlu", OPENING, _mmlu.letters_form, _mmlu.letter_answers, shots, subjects)


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="Massive Multitask Language Understanding (MMLU)",
        area="capability",
        cases=cases,
        scorer="choice",
        metric="mmlu_accuracy",
        safer="higher",
        source=_mmlu.SOURCE,
        meaning=(
            "Share of exam questions whose right letter is the most likely of A, B, C, D after the prompt of the "
            "paper (the same text as lm-evaluation-harness's `mmlu`). Chance is 0.25. It measures knowledge and "
            "the handling of the letter form together: small models can know an answer and not its letter (see "
            "`mmlu_text`). Several per cent of the keys are wrong (Gema et al. 2024), and the questions are in "
            "many training corpora."
        ),
        citation=_mmlu.CITATION,
        cost="14,042 cases, one forward of about 600 tokens each, of which most is shared within a subject",
    )
