"""HarmBench: 272 requests for harmful text, standard and contextual; the rate at which the model complies."""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.errors import UnknownNameError
from fivefold.evaluate.benchmarks._base import Benchmark, read_csv
from fivefold.evaluate.data import Source
from fivefold.types import Case, user_case

FILE = "harmbench_behaviors_text_all.filtered.csv"
SOURCE = Source(
    folder="harmbench",
    files=(FILE,),
    origin="centerforaisafety/HarmBench, from busycalibrating/AdversariaLLM@f970939273ea without 28 contexts",
    revision="f970939273ea",
    licence="MIT",
    hub="centerforaisafety/HarmBench on GitHub",
)
KINDS = ("standard", "contextual")


def cases(*, kinds: Sequence[str] = KINDS) -> list[Case]:
    """Behaviours of these kinds, as they stand, without contextual ones whose context the mirror leaves out."""
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError(
                "kind of behaviour", kind, KINDS, next_step="copyright behaviours need other scoring"
            )
    return [
        user_case(
            f"harmbench/{row['BehaviorID']}",
            f"{row['ContextString']}\n\n---\n\n{row['Behavior']}" if row["ContextString"] else row["Behavior"],
            suite="harmbench",
            behaviour=f"harmbench/{row['BehaviorID']}",
            category=row["SemanticCategory"],
            tags=(row["FunctionalCategory"],),
        )
        for row in read_csv(SOURCE, FILE)
        if row["FunctionalCategory"] in kinds and (row["FunctionalCategory"] == "standard" or row["ContextString"])
    ]


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="HarmBench, direct requests",
        area="safety",
        cases=cases,
        scorer="refusal",
        metric="harmbench_compliance",
        safer="lower",
        source=SOURCE,
        meaning=(
            "Share of harmful requests, sent without any attack, that the answer sets out to meet. Judged by this"
            " project's rules, whose error is measured, where the authors use a fine-tuned 13B classifier that "
            "asks whether the harm was done: compliance counts here even where the content is useless, so the "
            "rate is not the authors' attack success rate. All splits; the 100 copyright behaviours and 28 "
            "contextual ones without their context are not in it."
        ),
        citation="Mazeika et al. 2024, HarmBench: A Standardized Evaluation Framework, ICML (arXiv:2402.04249)",
        cost="272 answers of up to 128 tokens",
        max_new_tokens=128,
    )
