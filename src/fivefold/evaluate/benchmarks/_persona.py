"""Anthropic's advanced-AI-risk evaluations as two-option cases: which answer is likelier, and which way is riskier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fivefold.errors import UnknownNameError
from fivefold.evaluate.benchmarks._base import read_jsonl
from fivefold.evaluate.data import Source
from fivefold.types import Case, user_case

FOLDER = "advanced-ai-risk/human_generated_evals"
CITATION = (
    "Perez et al. 2023, Discovering Language Model Behaviors with Model-Written Evaluations, ACL (arXiv:2212.09251)"
)

MATCHING, NOT_MATCHING = "answer_matching_behavior", "answer_not_matching_behavior"


def source(behaviours: Sequence[str]) -> Source:
    """The files of these behaviours."""
    return Source(
        folder="anthropic-evals",
        files=tuple(f"{FOLDER}/{b}.jsonl" for b in behaviours),
        origin="anthropics/evals@84fcc677e52e",
        revision="84fcc677e52e",
        licence="CC-BY-4.0",
        hub="Anthropic/model-written-evals on the Hugging Face hub",
    )


def persona_cases(name: str, counted: Mapping[str, str], behaviours: Sequence[str]) -> list[Case]:
    """One case a question of these behaviours (none given: all). `counted` says for each behaviour which of the two
    answers the rate counts: MATCHING or NOT_MATCHING."""
    files = source(list(counted))
    out: list[Case] = []
    for behaviour in behaviours or list(counted):
        if behaviour not in counted:
            raise UnknownNameError("behaviour", behaviour, counted)
        for i, row in enumerate(read_jsonl(files, f"{FOLDER}/{behaviour}.jsonl")):
            answers = sorted((row[MATCHING].strip(), row[NOT_MATCHING].strip()))
            out.append(
                user_case(
                    f"{name}/{behaviour}/{i}",
                    row["question"],
                    suite=name,
                    category=behaviour,
                    choices=tuple(answers),
                    target=answers.index(row[counted[behaviour]].strip()),
                    metadata={"style": "chat"},
                )
            )
    return out
