"""Right answers: 1 where the answer's final number (or text) is the case's target, else 0."""

from __future__ import annotations

import re

from fivefold.align.rewards import Reward, Sample, each
from fivefold.score.scorers.number import final_number, value_of

_FORM = re.compile(r"####\s*-?\$?[\d.,]+\s*$")


def number() -> Reward:
    """1 where the final number equals the target, else 0; None where the case has no number to compare with."""

    def score(sample: Sample) -> float | None:
        wanted = value_of(str(sample.case.target)) if sample.case.target is not None else None
        return None if wanted is None else float(final_number(sample.text) == wanted)

    return each(score)


def text() -> Reward:
    """1 where the answer is the target, spaces and case apart; None where the case has no target."""

    def score(sample: Sample) -> float | None:
        target = sample.case.target
        return None if not isinstance(target, str) else float(_plain(sample.text) == _plain(target))

    return each(score)


def form(pattern: re.Pattern[str] = _FORM) -> Reward:
    """1 where the answer ends in the form that was asked (by default "#### " and a number), exactly once, else 0."""
    return each(lambda s: float(len(pattern.findall(s.text.strip())) == 1 and s.text.count("####") <= 1))


def _plain(value: str) -> str:
    return " ".join(value.split()).casefold()
