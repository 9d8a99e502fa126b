"""Replay: the stored cases of findings, asked again of another model version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fivefold.redteam.checks import check_outcome
from fivefold.redteam.protocol import Judge
from fivefold.runtime.protocol import Capability, Model, Request
from fivefold.types import Completion, Errored, Finding, Outcome, Reproduction, Scored, Unscored, user_case


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One finding on one version: Scored 1 when any stored case still succeeds."""

    finding: Finding
    outcome: Outcome
    completions: tuple[Completion, ...]


def replay(findings: Sequence[Finding], target: Model, judge: Judge, *, max_new_tokens: int = 40) -> list[Replayed]:
    """Ask every stored case again, in one batch, with the seed and temperature of then.

    A case that needs a prefill the target does not allow, or weights instead of a text, is Unscored, because the attack
    cannot be made there, which is not the same as withstanding it.
    """
    plan = [(f, r) for f in findings for r in f.reproductions]
    allowed = Capability.PREFILL in target.capabilities
    asked = [(f, r) for f, r in plan if (allowed or not r.prefill) and not _weights_alone(r)]
    requests = [request_of(r, max_new_tokens) for _, r in asked]
    answers: dict[str, list[tuple[Completion, Outcome]]] = {f.id: [] for f in findings}
    for (finding, reproduction), completion in zip(asked, target.generate(requests), strict=True):
        outcome = judged(finding, reproduction, completion, judge)
        answers[finding.id].append((completion, outcome))
    return [
        Replayed(
            finding=f,
            outcome=_worst([o for _, o in answers[f.id]]) if answers[f.id] else Unscored(reason=_obstacle(f)),
            completions=tuple(c for c, _ in answers[f.id]),
        )
        for f in findings
    ]


def request_of(reproduction: Reproduction, max_new_tokens: int) -> Request:
    """The stored case as a request, with room for as long an answer as was judged then. A check on the length of the
    answer needs that many tokens."""
    check = reproduction.check
    room = int(check["at_least"]) if check.get("kind") == "tokens" else reproduction.tokens
    return Request(
        messages=reproduction.messages,
        prefill=reproduction.prefill,
        max_new_tokens=max(room, max_new_tokens),
        temperature=reproduction.temperature,
        seed=reproduction.seed if reproduction.temperature else 0,
    )


def judged(finding: Finding, reproduction: Reproduction, completion: Completion, judge: Judge) -> Outcome:
    """What the stored check says of an answer, or the judge where there is none."""
    if completion.error:
        return Errored(error=completion.error)
    if reproduction.check:
        return check_outcome(reproduction.check, completion)
    sent = reproduction.messages[-1].content
    case = user_case(
        finding.id,
        reproduction.request or sent,
        category=finding.category,
        language=finding.language,
        metadata={"attack_prompt": sent},
    )
    return judge(case, completion)


def _worst(outcomes: Sequence[Outcome]) -> Outcome:
    scored = [o for o in outcomes if isinstance(o, Scored)]
    hit = next((o for o in scored if o.value >= 0.5), None)
    if hit is not None:
        return hit
    errored = next((o for o in outcomes if isinstance(o, Errored)), None)
    if errored is not None:
        return errored
    return scored[0] if scored else Unscored(reason="no answer could be judged")


def _weights_alone(reproduction: Reproduction) -> bool:
    return reproduction.check.get("kind") == "open_weights"


def _obstacle(finding: Finding) -> str:
    """Why none of the stored cases could be asked."""
    if all(_weights_alone(r) for r in finding.reproductions):
        return "no text reproduces it: attack this version again"
    return "this version allows no prefilled answer"
