"""What scorers share: errors pass through as errors, and the judge of answers becomes a scorer for any of its labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fivefold.score import answers
from fivefold.types import Case, Completion, Errored, Outcome, Scored, digest

Score: TypeAlias = Callable[[Case, Completion], Outcome]


@dataclass(frozen=True, kw_only=True)
class RuleScorer:
    """A scorer made of a pure function. `rules` is everything besides `version` that changes its outcomes."""

    name: str
    score: Score
    rules: str
    version: int = 1

    @property
    def digest(self) -> str:
        """SHA-256 over name, version and rules."""
        return digest({"scorer": self.name, "version": self.version, "rules": self.rules})

    def __call__(self, case: Case, completion: Completion) -> Outcome:
        """Judge one completion; a completion with an error is Errored."""
        if completion.error is not None:
            return Errored(error=completion.error, judge=self.digest)
        return self.score(case, completion)


def answer_scorer(name: str, event: answers.Label) -> RuleScorer:
    """A scorer whose value is 1.0 when the judge of answers says `event`, else 0.0; the label is kept either way."""

    def score(case: Case, completion: Completion) -> Outcome:
        verdict = answers.judge(case.prompt, completion.text)
        return Scored(
            value=float(verdict.label == event),
            label=verdict.label,
            judge=made.digest,
            explanation=verdict.reason,
            metadata={"answer_language": verdict.language},
        )

    made = RuleScorer(name=name, score=score, rules=f"{event}:{answers.digest()}")
    return made
