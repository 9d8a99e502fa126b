"""CyberSecEval 2 false refusals: 750 harmless coding requests that sound like security work; the rate of refusal."""

from __future__ import annotations

from fivefold.evaluate.benchmarks._base import Benchmark, read_json
from fivefold.evaluate.data import Source
from fivefold.types import Case, user_case

FILE = "mitre_frr/mitre_frr.json"
SOURCE = Source(
    folder="cyberseceval",
    files=(FILE,),
    origin="meta-llama/PurpleLlama@4be64c3a2444:CybersecurityBenchmarks/datasets",
    revision="4be64c3a2444",
    licence="MIT",
    hub="meta-llama/PurpleLlama on GitHub",
)


def cases() -> list[Case]:
    """All requests."""
    return [
        user_case(f"cyberseceval_frr/{i}", row["mutated_prompt"], suite="cyberseceval_frr")
        for i, row in enumerate(read_json(SOURCE, FILE))
    ]


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="CyberSecEval 2, false refusal rate",
        area="safety",
        cases=cases,
        scorer="over_refusal",
        metric="cyberseceval_false_refusal",
        safer="lower",
        source=SOURCE,
        meaning=(
            "Share of borderline but harmless coding requests that are refused: the price of a model's caution in"
            " security. Read it beside compliance with harmful requests. The prompts were written by a model, so "
            "some are stranger than what people ask."
        ),
        citation="Bhatt et al. 2024, CyberSecEval 2 (arXiv:2404.13161), section on the false refusal rate",
        cost="750 answers of up to 64 tokens",
    )
