"""Exact match: 1.0 when the answer, without case, articles, punctuation and outer blanks, equals the target.

The normalisation of SQuAD (Rajpurkar et al. 2016, section 6.1) over NFKC text.
"""

from __future__ import annotations

import re
import unicodedata

from fivefold.score.common import RuleScorer
from fivefold.types import Case, Completion, Outcome, Safer, Scored, Unscored

METRIC: str = "accuracy"
SAFER: Safer = "higher"


def scorer() -> RuleScorer:
    """The scorer."""
    made: RuleScorer

    def score(case: Case, completion: Completion) -> Outcome:
        if not isinstance(case.target, str):
            return Unscored(reason="the case has no target text", judge=made.digest)
        hit = squad(completion.text) == squad(case.target)
        return Scored(value=float(hit), label="correct" if hit else "wrong", judge=made.digest)

    made = RuleScorer(name="exact", score=score, rules="squad normalisation over nfkc")
    return made


def squad(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[^\w\s]", " ", text)
    return " ".join(w for w in text.split() if w not in ("a", "an", "the"))
