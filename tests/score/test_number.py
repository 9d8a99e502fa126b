"""Final numbers."""

from __future__ import annotations

import pytest

from fivefold.score import scorer
from fivefold.types import Completion, Scored, Unscored, user_case


@pytest.mark.parametrize(
    ("answer", "target", "label", "strict"),
    [
        ("She has 3 + 4 = 7 eggs.\n#### 7", "7", "correct", 1.0),
        ("The answer is $1,234.50.", "1234.5", "correct", 0.0),
        ("So 3 apples, then 5. The answer is 5 and not 3.", "5", "correct", 0.0),
        ("It is 18.", "18", "correct", 0.0),
        ("#### 8\n\nQuestion: 9 + 1?\n#### 10", "8", "correct", 1.0),
        ("8\nQ: next one, 10", "8", "correct", 0.0),
        ("#### -3", "-3", "correct", 1.0),
        ("#### 70000", "70,000", "correct", 1.0),
        ("12 or 13", "12", "wrong", 0.0),
        ("I do not know.", "12", "no number", 0.0),
        ("#### 12,", "12", "correct", 1.0),
    ],
)
def test_final_number(answer: str, target: str, label: str, strict: float) -> None:
    outcome = scorer("number")(user_case("c", "?", target=target), Completion(text=answer, model="m"))
    assert isinstance(outcome, Scored)
    assert (outcome.label, outcome.metadata["strict"]) == (label, strict)
    assert outcome.value == float(label == "correct")


def test_a_target_that_is_no_number_is_unscored() -> None:
    for target in (None, "seven", "NaN"):
        outcome = scorer("number")(user_case("c", "?", target=target), Completion(text="7", model="m"))
        assert isinstance(outcome, Unscored)
