"""MMLU by full text: the same questions, and the likelihood of each option's words instead of its letter."""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.evaluate.benchmarks import _mmlu
from fivefold.evaluate.benchmarks._base import Benchmark
from fivefold.types import Case

OPENING = "The following are questions (with answers) about {}."


def cases(*, shots: int = 5, subjects: Sequence[str] = ()) -> list[Case]:
    """All test questions of these subjects (none given: all), after `shots` questions of the subject's dev file."""
    return _mmlu.cases_in_form("mmlu_text", OPENING, _mmlu.text_form, _mmlu.options, shots, subjects)


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="MMLU, continuation form",
        area="capability",
        cases=cases,
        scorer="choice",
        metric="mmlu_text_accuracy",
        safer="higher",
        source=_mmlu.SOURCE,
        meaning=(
            "Share of exam questions whose right option is the most likely continuation per byte; the metric with"
            " the ending `_sum` compares whole continuations. The prompt is that of lm-evaluation-harness's "
            "`mmlu_continuation`. Options are not shown, so 'none of the above' cannot be understood. Chance is "
            "about 0.25. Not comparable with the letter form; same errors in the keys."
        ),
        citation=_mmlu.CITATION,
        cost="14,042 cases with four continuations each; the worked examples and the question are computed once",
    )
