"""Final number: 1.0 when the last number that the answer gives equals the target's, whatever stands around it.

The number after "####" or after "answer is" counts before the last one in the text; what follows where the model goes
on to invent another question is cut. Thousands separators, currency and per cent signs are dropped, and values are
compared, so 18, $18.00 and "18." agree. The outcome's metadata says whether the answer also kept to the form "#### 18".
This is the usual scoring of GSM8K (Cobbe et al. 2021); `value` corresponds to lm-evaluation-harness's flexible-extract
and `strict` to its strict-match.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from fivefold.score.common import RuleScorer
from fivefold.types import Case, Completion, Outcome, Safer, Scored, Unscored

METRIC: str = "accuracy"
SAFER: Safer = "higher"
VERSION = 1

NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+"
_ANY = re.compile(NUMBER)
_STRICT = re.compile(rf"####\s*({NUMBER})")
_SAID = re.compile(rf"answer is:?\s*\**\s*({NUMBER})", re.IGNORECASE)
_NEXT = re.compile(r"\n\s*(?:question|q|user|problem)\s*\d*\s*:", re.IGNORECASE)


def scorer() -> RuleScorer:
    """The scorer."""
    made: RuleScorer

    def score(case: Case, completion: Completion) -> Outcome:
        wanted = value_of(str(case.target)) if case.target is not None else None
        if wanted is None:
            return Unscored(reason="the case's target is not a number", judge=made.digest)
        text = _NEXT.split(completion.text, maxsplit=1)[0]
        strict = _STRICT.search(text)
        given, kept_form = final_number(text), strict is not None and value_of(strict[1]) == wanted
        label = "no number" if given is None else "correct" if given == wanted else "wrong"
        return Scored(
            value=float(given == wanted), label=label, judge=made.digest, metadata={"strict": float(kept_form)}
        )

    made = RuleScorer(name="number", score=score, rules=f"{NUMBER}|####|answer is|last", version=VERSION)
    return made


def final_number(text: str) -> Decimal | None:
    """The number that the answer ends on, or None."""
    if found := _STRICT.search(text):
        return value_of(found[1])
    said = _SAID.findall(text)
    numbers = said or _ANY.findall(text)
    return value_of(numbers[-1]) if numbers else None


def value_of(text: str) -> Decimal | None:
    """The value of a written number, or None when it is none."""
    try:
        value = Decimal(text.strip().replace(",", "").replace("$", "").rstrip(".%"))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
