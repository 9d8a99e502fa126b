"""Transfer: what succeeded against one model, sent as it stands to others.

Read a row as: of the behaviours that fell on this source, how many fall on each target to the same words. Against itself a
source need not reach 1: its successes may have been sampled, and here every prompt is sent once, greedily. What an attack's
own check told is told by that check again; what no text reproduces (vectors, changed weights) cannot be sent. Source: the
transfer experiments of Zou et al. 2023 (arXiv 2307.15043, section 3.2) and Chao et al. 2023 (arXiv 2310.08419, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fivefold.redteam.campaign import Tried
from fivefold.redteam.checks import check_outcome
from fivefold.redteam.protocol import Attempt, Judge
from fivefold.runtime.protocol import Capability, Model, Request
from fivefold.stats import Interval, clustered_rate
from fivefold.types import Case, Completion, Errored, Outcome, Scored, Unscored


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One cell: the successes against `source`, sent to `target`."""

    source: str
    target: str
    rate: Interval
    outcomes: Mapping[str, Outcome]
    """Case id and attack → what came of it."""

    @property
    def scored(self) -> int:
        """Successes of the source that could be judged on the target."""
        return sum(isinstance(o, Scored) for o in self.outcomes.values())


def transfer_matrix(
    sources: Mapping[str, Sequence[Tried]],
    targets: Mapping[str, Model],
    judge: Judge,
    *,
    max_new_tokens: int = 40,
    level: float = 0.95,
) -> list[Transfer]:
    """Every source's successes against every target, one batch a target. What needs a prefill that a target does not
    allow, or weights instead of a text, is Unscored: it cannot be sent there, which is not withstanding it."""
    cells = []
    for name, model in targets.items():
        wins = [(s, t, t.success) for s, tried in sources.items() for t in tried if t.success is not None]
        outcomes = _sent(model, [(t.case, a) for _, t, a in wins if a], judge, max_new_tokens)
        for source in sources:
            rows = [(t, o) for (s, t, _), o in zip(wins, outcomes, strict=True) if s == source]
            cells.append(_cell(source, name, rows, level))
    return cells


def _cell(source: str, target: str, rows: Sequence[tuple[Tried, Outcome]], level: float) -> Transfer:
    scored = [(o.value, t.case.behaviour or t.case.id) for t, o in rows if isinstance(o, Scored)]
    rate = clustered_rate([v for v, _ in scored], [c for _, c in scored], level)
    outcomes = {f"{t.case.id} by {t.attack}": o for t, o in rows}
    return Transfer(source=source, target=target, rate=rate, outcomes=outcomes)


def _sent(model: Model, wins: Sequence[tuple[Case, Attempt]], judge: Judge, max_new_tokens: int) -> list[Outcome]:
    obstacles = [_obstacle(model, attempt) for _, attempt in wins]
    asked = [i for i, obstacle in enumerate(obstacles) if not obstacle]
    requests = [_request(wins[i][1], max_new_tokens) for i in asked]
    answers = dict(zip(asked, model.generate(requests), strict=True)) if asked else {}
    return [
        _told(case, attempt, answers[i], judge) if i in answers else Unscored(reason=obstacles[i])
        for i, (case, attempt) in enumerate(wins)
    ]


def _obstacle(model: Model, attempt: Attempt) -> str:
    """Why an attempt cannot be made on `model`, or an empty string."""
    if _check(attempt).get("kind") == "open_weights":
        return "no text reproduces it: it changes vectors or weights"
    return "the target allows no prefill" if attempt.prefill and Capability.PREFILL not in model.capabilities else ""


def _check(attempt: Attempt) -> Mapping[str, Any]:
    """The check that told the success, empty when a judge did."""
    check: Mapping[str, Any] = attempt.metadata.get("check") or {}
    return check


def _request(attempt: Attempt, max_new_tokens: int) -> Request:
    """With room for as long an answer as succeeded. A check on the length of the answer needs that many tokens."""
    check, answer = _check(attempt), attempt.completion
    room = int(check["at_least"]) if check.get("kind") == "tokens" else answer.usage.completion if answer else 0
    return Request(messages=attempt.messages, prefill=attempt.prefill, max_new_tokens=max(room, max_new_tokens))


def _told(case: Case, attempt: Attempt, answer: Completion, judge: Judge) -> Outcome:
    if answer.error is not None:
        return Errored(error=answer.error)
    if check := _check(attempt):
        return check_outcome(check, answer)
    sent = {**case.metadata, "attack_prompt": attempt.messages[-1].content}
    return judge(replace(case, metadata=sent), answer)
