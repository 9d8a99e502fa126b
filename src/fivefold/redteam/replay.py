"""Replay: the stored cases of findings, asked again of another model version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fivefold.redteam.protocol import Judge
from fivefold.runtime.protocol import Capability, Model, Request
from fivefold.types import Completion, Errored, Finding, Outcome, Scored, Unscored, user_case


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One finding on one version: Scored 1 when any stored case still succeeds."""

    finding: Finding
    outcome: Outcome
    completions: tuple[Completion, ...]


def replay(findings: Sequence[Finding], target: Model, judge: Judge, *, max_new_tokens: int = 40) -> list[Replayed]:
    """Ask every stored case again, greedily, in one batch. A case that needs a prefill the target does not allow is
    Unscored, because the attack cannot be made there, which is not the same as withstanding it."""
    plan = [(f, r) for f in findings for r in f.reproductions]
    allowed = Capability.PREFILL in target.capabilities
    asked = [(f, r) for f, r in plan if allowed or not r.prefill]
    requests = [Request(messages=r.messages, prefill=r.prefill, max_new_tokens=max_new_tokens) for _, r in asked]
    answers: dict[str, list[tuple[Completion, Outcome]]] = {f.id: [] for f in findings}
    for (finding, reproduction), completion in zip(asked, target.generate(requests), strict=True):
        case = user_case(
            finding.id,
            reproduction.messages[-1].content,
            category=finding.category,
            language=finding.language,
            metadata={"attack_prompt": reproduction.messages[-1].content},
        )
        outcome = Errored(error=completion.error) if completion.error else judge(case, completion)
        answers[finding.id].append((completion, outcome))
    return [
        Replayed(
            finding=f,
            outcome=_worst([o for _, o in answers[f.id]]),
            completions=tuple(c for c, _ in answers[f.id]),
        )
        for f in findings
    ]


def _worst(outcomes: Sequence[Outcome]) -> Outcome:
    scored = [o for o in outcomes if isinstance(o, Scored)]
    hit = next((o for o in scored if o.value >= 0.5), None)
    if hit is not None:
        return hit
    errored = next((o for o in outcomes if isinstance(o, Errored)), None)
    if errored is not None:
        return errored
    return scored[0] if scored else Unscored(reason="no stored case could be asked of this version")
