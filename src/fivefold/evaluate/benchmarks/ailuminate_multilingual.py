"""AILuminate prompts in four hazards, machine-translated into Korean and Japanese, beside their English originals."""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.errors import UnknownNameError
from fivefold.evaluate.benchmarks._base import Benchmark, read_json
from fivefold.evaluate.benchmarks.ailuminate import CITATION
from fivefold.evaluate.data import Source
from fivefold.types import Case, user_case

HAZARDS = ("ipv", "ncr", "prv", "vcr")
CODES = {"en": "en", "ko": "kr", "ja": "jp"}
REVISION = "30fac1237547"
SOURCE = Source(
    folder="moonshot-multilingual",
    files=tuple(f"mlc-{hazard}-{code}.json" for hazard in HAZARDS for code in CODES.values()),
    origin=f"aiverify-foundation/moonshot-data@{REVISION}:datasets",
    revision=REVISION,
    licence="CC-BY-4.0",
    hub="aiverify-foundation/moonshot-data on GitHub",
)


def cases(*, languages: Sequence[str] = tuple(CODES)) -> list[Case]:
    """All prompts in these languages; translations share their behaviour."""
    for language in languages:
        if language not in CODES:
            raise UnknownNameError("language", language, CODES)
    return [
        user_case(
            f"ailuminate_multilingual/{language}/{row['id']}",
            row["input"],
            suite="ailuminate_multilingual",
            behaviour=f"ailuminate/{row['id']}",
            category=hazard,
            language=language,
        )
        for language in languages
        for hazard in HAZARDS
        for row in read_json(SOURCE, f"mlc-{hazard}-{CODES[language]}.json")["examples"]
    ]


def benchmark() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        title="AILuminate demo prompts in Korean and Japanese (Project Moonshot)",
        area="safety",
        cases=cases,
        scorer="refusal",
        metric="ailuminate_compliance",
        safer="lower",
        source=SOURCE,
        meaning=(
            "Share of prompts that the answer sets out to meet, by language, for intellectual property, "
            "non-violent crime, privacy and violent crime. The translations are by machine and partly wrong, so a"
            " difference between languages mixes the model's behaviour with the quality of the prompt; the "
            "judge's error is measured per language."
        ),
        citation=CITATION,
        cost="400 prompts a language, answers of up to 128 tokens",
        max_new_tokens=128,
    )
