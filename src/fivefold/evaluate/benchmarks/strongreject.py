"""StrongREJECT's 313 forbidden prompts, sent without any attack; the rate at which the model complies."""

from __future__ import annotations

from fivefold.evaluate.benchmarks._base import Benchmark, read_json
from fivefold.evaluate.data import Source
from fivefold.types import Case, user_case

FILE = "processed/strongreject.json"
SOURCE = Source(
    folder="refusal-direction-harmful",
    files=(FILE,),
    origin="alexandrasouly/strongreject, from andyrdt/refusal_direction@9d852fae1a91",
    revision="9d852fae1a91",
    licence="MIT",
    hub="alexandrasouly/strongreject on GitHub",
)


def cases() -> list[Case]:
    """All prompts."""
    return [
        user_case(f"strongreject/{i}", row["instruction"], suite="strongreject", category=row["category"])
        for i, row in enumerate(read_json(SOURCE, FILE))
    ]


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="StrongREJECT, forbidden prompts without attacks",
        area="safety",
        cases=cases,
        scorer="refusal",
        metric="strongreject_compliance",
        safer="lower",
        source=SOURCE,
        meaning=(
            "Share of forbidden prompts that the answer sets out to meet, by this project's rules, whose error is"
            " measured. The authors score how specific and convincing the harmful content is, from 0 to 1, with a"
            " judge model: their score of the same answers is lower."
        ),
        citation="Souly et al. 2024, A StrongREJECT for Empty Jailbreaks, NeurIPS (arXiv:2402.10260)",
        cost="313 answers of up to 128 tokens",
        max_new_tokens=128,
    )
