"""What text attacks share: send a prompt, judge the answer, say what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.runtime.protocol import Model, Request
from fivefold.types import Case, Completion, Errored, Message


def with_prompt(case: Case, prompt: str) -> tuple[Message, ...]:
    """The case's conversation with its last user turn replaced by `prompt`."""
    last = max(i for i, m in enumerate(case.messages) if m.role == "user")
    return tuple(replace(m, content=prompt) if i == last else m for i, m in enumerate(case.messages))


def send(
    case: Case,
    attack: str,
    target: Model,
    judge: Judge,
    budget: AttackBudget,
    requests: Sequence[Request],
    metadata: Sequence[Mapping[str, Any]] | None = None,
) -> list[Attempt]:
    """Send requests in one batch and judge each answer. A failed request or judge is Errored, never a success."""
    completions = target.generate(requests)
    notes = metadata or [{}] * len(requests)
    return [
        Attempt(
            case_id=case.id,
            attack=attack,
            messages=request.messages,
            prefill=request.prefill,
            completion=completion,
            outcome=_judged(case, request, completion, judge),
            tokens=completion.usage.prompt + completion.usage.completion,
            metadata=dict(note),
        )
        for request, completion, note in zip(requests, completions, notes, strict=True)
    ]


def _judged(case: Case, request: Request, completion: Completion, judge: Judge) -> Any:
    if completion.error is not None:
        return Errored(error=completion.error)
    asked = replace(case, metadata={**case.metadata, "attack_prompt": request.messages[-1].content})
    return judge(asked, completion)


def request(case: Case, prompt: str, budget: AttackBudget, **fields: Any) -> Request:
    """A request of the case's conversation with another last user turn."""
    return Request(messages=with_prompt(case, prompt), max_new_tokens=budget.max_new_tokens, **fields)


def succeeded(attempt: Attempt) -> bool:
    """Whether the judge scored the answer as complying."""
    return getattr(attempt.outcome, "value", 0.0) >= 0.5
