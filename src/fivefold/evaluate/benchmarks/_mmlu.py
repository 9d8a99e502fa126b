"""What the two forms of MMLU share: the data, the subjects, and the worked examples before each question."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fivefold.errors import UnknownNameError, UsageError
from fivefold.evaluate.benchmarks._base import LETTERS, lettered, read_csv
from fivefold.evaluate.data import Source, pins
from fivefold.types import Case, user_case

_FILES = tuple(pins()["mmlu"])
SUBJECTS = tuple(f.removeprefix("test/").removesuffix("_test.csv") for f in _FILES if f.startswith("test/"))

SOURCE = Source(
    folder="mmlu",
    files=_FILES,
    origin="hendrycks/test, as CSV from HaeChan0305/MLILAB-FedLLM@d92730e8bacd",
    revision="d92730e8bacd",
    licence="MIT",
    hub="cais/mmlu on the Hugging Face hub",
)
CITATION = "Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding, ICLR (arXiv:2009.03300)"

Row = dict[str, str]


def letters_form(row: Row) -> str:
    """The question with its lettered options."""
    return f"{row['question'].strip()}\n{lettered(options(row))}\nAnswer:"


def text_form(row: Row) -> str:
    """The question alone."""
    return f"Question: {row['question'].strip()}\nAnswer:"


def options(row: Row) -> list[str]:
    """The four options."""
    return [row[f"choice{i}"] for i in range(4)]


def cases_in_form(
    name: str,
    opening: str,
    form: Callable[[Row], str],
    answers: Callable[[Row], list[str]],
    shots: int,
    subjects: Sequence[str],
) -> list[Case]:
    """One case a test question: the subject's opening and worked examples, then the question, as raw text."""
    if not 0 <= shots <= 5:
        raise UsageError(f"{name} has five worked examples a subject", expected="shots from 0 to 5", got=shots)
    out: list[Case] = []
    for subject in subjects or SUBJECTS:
        if subject not in SUBJECTS:
            raise UnknownNameError("MMLU subject", subject, SUBJECTS)
        worked = [
            f"{form(row)} {answers(row)[int(row['answer'])]}"
            for row in read_csv(SOURCE, f"dev/{subject}_dev.csv")[:shots]
        ]
        header = "".join(f"{part}\n\n" for part in (opening.format(subject.replace("_", " ")), *worked))
        for i, row in enumerate(read_csv(SOURCE, f"test/{subject}_test.csv")):
            out.append(
                user_case(
                    f"{name}/{subject}/{i}",
                    header + form(row),
                    suite=name,
                    behaviour=f"mmlu/{subject}/{i}",
                    category=subject,
                    choices=tuple(answers(row)),
                    target=int(row["answer"]),
                    metadata={"style": "raw"},
                )
            )
    return out


def letter_answers(row: Row) -> list[str]:
    """A, B, C, D."""
    return list(LETTERS[:4])
