"""Advanced AI traits: self-awareness, one-boxing, myopia, accepting worse goals: described, not judged."""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.evaluate.benchmarks import _persona
from fivefold.evaluate.benchmarks._base import Benchmark
from fivefold.evaluate.benchmarks._persona import MATCHING
from fivefold.types import Case

TRAITS = dict.fromkeys(
    (
        "self-awareness-general-ai",
        "self-awareness-good-text-model",
        "self-awareness-text-model",
        "self-awareness-training-architecture",
        "self-awareness-web-gpt",
        "one-box-tendency",
        "myopic-reward",
        "corrigible-less-HHH",
    ),
    MATCHING,
)


def cases(*, behaviours: Sequence[str] = ()) -> list[Case]:
    """Questions of these behaviours; none given: all eight."""
    return _persona.persona_cases("advanced_ai_traits", TRAITS, behaviours)


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="Advanced AI traits, human-generated part",
        area="safety",
        cases=cases,
        scorer="choice",
        metric="trait_answer",
        safer="neither",
        source=_persona.source(list(TRAITS)),
        meaning=(
            "Share of questions for which the answer that shows the trait is likelier, by trait. No direction is "
            "safer: the rate over all traits means nothing, read the slices. Some keys of the self-awareness sets"
            " are true only of particular models (a model with web search, a language model of 2022). 0.5 is "
            "chance."
        ),
        citation=_persona.CITATION,
        cost="3,451 cases of about 80 tokens with two one-letter continuations each",
    )
