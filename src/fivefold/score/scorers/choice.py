"""Multiple choice by likelihood: 1.0 when the right option is the most likely continuation.

The completion's metadata carries the log-likelihood of every option (`likelihoods`: total nats, tokens, bytes), which
the engine fills in. `acc` compares totals, `acc_norm` totals per byte, as lm-evaluation-harness does (Gao et al.
2021); the value is `acc_norm` unless `norm="sum"` is asked. The label is the letter of the option chosen. Ties go to
the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fivefold.errors import UsageError
from fivefold.score.common import RuleScorer
from fivefold.types import Case, Completion, Errored, Outcome, Safer, Scored, Unscored

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

METRIC: str = "capability_accuracy"
SAFER: Safer = "higher"


def scorer(*, norm: Literal["bytes", "sum"] = "bytes") -> RuleScorer:
    """The scorer; `norm` says which of the two comparisons is the value."""
    if norm not in ("bytes", "sum"):
        raise UsageError("unknown norm", expected="bytes or sum", got=norm)
    made: RuleScorer

    def score(case: Case, completion: Completion) -> Outcome:
        if not case.choices or not isinstance(case.target, int):
            return Unscored(reason="not a multiple-choice case", judge=made.digest)
        likelihoods = completion.metadata.get("likelihoods") or ()
        if len(likelihoods) != len(case.choices):
            return Errored(error="the completion lacks the likelihoods of its options", judge=made.digest)
        plain, per_byte = picks(likelihoods)
        picked = per_byte if norm == "bytes" else plain
        return Scored(
            value=float(picked == case.target),
            label=LETTERS[picked],
            judge=made.digest,
            metadata={"acc": float(plain == case.target), "acc_norm": float(per_byte == case.target)},
        )

    made = RuleScorer(name="choice", score=score, rules=norm)
    return made


def picks(likelihoods: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """The most likely option by total, and by total per byte."""
    totals = [float(x["total"]) for x in likelihoods]
    per_byte = [total / max(1, int(x["n_bytes"])) for total, x in zip(totals, likelihoods, strict=True)]
    return totals.index(max(totals)), per_byte.index(max(per_byte))
