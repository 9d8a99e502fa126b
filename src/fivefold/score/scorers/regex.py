"""Pattern: 1.0 when a regular expression is found in the answer. The pattern is an option, or the case's target.

A pattern that cannot be compiled is a usage error, not a miss. There is no paper behind it.
"""

from __future__ import annotations

import re

from fivefold.errors import DataError
from fivefold.score.common import RuleScorer
from fivefold.types import Case, Completion, Outcome, Safer, Scored, Unscored

METRIC: str = "match_rate"
SAFER: Safer = "neither"


def scorer(*, pattern: str | None = None) -> RuleScorer:
    """The scorer; without `pattern`, each case's target text is the pattern."""
    fixed = None if pattern is None else _compiled(pattern)
    made: RuleScorer

    def score(case: Case, completion: Completion) -> Outcome:
        if fixed is None and not isinstance(case.target, str):
            return Unscored(reason="the case has no target pattern", judge=made.digest)
        found = (fixed or _compiled(str(case.target))).search(completion.text)
        return Scored(value=float(bool(found)), label="match" if found else "no match", judge=made.digest)

    made = RuleScorer(name="regex", score=score, rules=pattern or "target")
    return made


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise DataError("not a regular expression", got=pattern[:200], expected=str(error)) from error
