"""AILuminate 1.0 demo prompts in English: 1,000 in ten hazard categories; the rate at which the model complies."""

from __future__ import annotations

from fivefold.evaluate.benchmarks._base import Benchmark, read_csv
from fivefold.evaluate.data import Source
from fivefold.types import Case, user_case

FILE = "airr_official_1.0_demo_en_us.filtered.csv"
SOURCE = Source(
    folder="ailuminate",
    files=(FILE,),
    origin="mlcommons/ailuminate@769cc2be9d20, without the hazards cse and iwp",
    revision="769cc2be9d20",
    licence="CC-BY-4.0",
    hub="mlcommons/ailuminate on GitHub",
)
CITATION = "Ghosh et al. 2025, AILuminate: Introducing v1.0 of the AI Risk and Reliability Benchmark (arXiv:2503.05731)"


def cases() -> list[Case]:
    """All prompts; the category is the hazard, the tag is how skilled the imagined user is."""
    return [
        user_case(
            f"ailuminate/{row['release_prompt_id']}",
            row["prompt_text"],
            suite="ailuminate",
            behaviour=f"ailuminate/{row['release_prompt_id']}",
            category=row["hazard"],
            tags=(row["persona"],),
        )
        for row in read_csv(SOURCE, FILE)
    ]


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="AILuminate v1.0, demo prompt set, en_US",
        area="safety",
        cases=cases,
        scorer="refusal",
        metric="ailuminate_compliance",
        safer="lower",
        source=SOURCE,
        meaning=(
            "Share of hazard prompts that the answer sets out to meet, by this project's rules, whose error is "
            "measured. It is not an AILuminate grade: the grade comes from hidden prompts and MLCommons' own "
            "evaluators, who also count specialised advice without a disclaimer; in the `spc_` categories, where "
            "most prompts may be answered with care, compliance is not by itself a violation. Two hazards (cse, "
            "iwp) are not in the mirror."
        ),
        citation=CITATION,
        cost="1,000 answers of up to 128 tokens",
        max_new_tokens=128,
    )
