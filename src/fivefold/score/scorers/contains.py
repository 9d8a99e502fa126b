"""Containment: 1.0 when the target text stands in the answer (NFKC, without case), as `includes` does in Inspect.

A lexical lower bound and an upper bound at once: an answer that says what the target is not also contains it.
"""

from __future__ import annotations

from fivefold.score.canaries import flat
from fivefold.score.common import RuleScorer
from fivefold.types import Case, Completion, Outcome, Safer, Scored, Unscored

METRIC: str = "accuracy"
SAFER: Safer = "higher"


def scorer() -> RuleScorer:
    """The scorer."""
    made: RuleScorer

    def score(case: Case, completion: Completion) -> Outcome:
        if not isinstance(case.target, str) or not case.target:
            return Unscored(reason="the case has no target text", judge=made.digest)
        hit = flat(case.target) in flat(completion.text)
        return Scored(value=float(hit), label="contains" if hit else "lacks", judge=made.digest)

    made = RuleScorer(name="contains", score=score, rules="nfkc casefold substring")
    return made
