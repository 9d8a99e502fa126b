"""What attacks over several turns, and attacks that a model writes, share."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fivefold.redteam.attacks._text import request, send, succeeded
from fivefold.redteam.budget import tokens_of
from fivefold.redteam.helpers import TEMPLATES, ask, read_fields, read_line, read_object
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.runtime.protocol import Model, Request
from fivefold.score import answers
from fivefold.types import Case, Completion, Errored, Message, Outcome, Scored, Unscored

RETRIES = 2
"""How often an attacker whose reply cannot be used is asked again."""
CLOSED = ('"}', '"\n}')
"""What ends an object of strings."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What an attacker wrote: a prompt with what else it said, or why there is none."""

    prompt: str = ""
    said: dict[str, str] = field(default_factory=dict)
    reply: str = ""
    tokens: int = 0
    failure: Outcome | None = None


def before(case: Case) -> tuple[Message, ...]:
    """The case's conversation up to its last user turn."""
    last = max(i for i, m in enumerate(case.messages) if m.role == "user")
    return case.messages[:last]


def said(history: Sequence[Message], prompt: str, answer: str) -> tuple[Message, ...]:
    """The conversation with one more exchange."""
    return (*history, Message(role="user", content=prompt), Message(role="assistant", content=answer))


def turn(history: Sequence[Message], prompt: str, budget: AttackBudget, **fields: Any) -> Request:
    """A request with one more user turn."""
    messages = (*history, Message(role="user", content=prompt))
    return Request(messages=messages, max_new_tokens=budget.max_new_tokens, **fields)


def instructed(system: str, user: str) -> tuple[Message, ...]:
    """A conversation with a helping model: its instructions and one message."""
    return Message(role="system", content=system), Message(role="user", content=user)


def propose(
    model: Model,
    conversations: Sequence[tuple[Message, ...]],
    rng: random.Random,
    *,
    prompt_key: str = "",
    keys: Sequence[str] = (),
    prefill: str = "",
    max_new_tokens: int = 400,
    temperature: float = 1.0,
) -> list[Proposal]:
    """Ask the attacker for one prompt per conversation, in one batch; unusable replies are asked for again.

    With `prompt_key` a reply is a JSON object with that field and `keys`, opened by `prefill`; where it lacks the field, the
    next one is opened up to it (so PAIR's authors open the first). Else the reply is the prompt itself. A refusal of the
    attacker is no prompt, nor is the placeholder of its instructions. What fails for good is Unscored, or Errored when the
    model itself failed.
    """
    opening = [prefill] * len(conversations)
    found: dict[int, Proposal] = {}
    spent = [0] * len(conversations)
    for _ in range(1 + RETRIES):
        todo = [i for i in range(len(conversations)) if i not in found or found[i].failure is not None]
        if not todo:
            break
        replies = ask(
            model,
            [conversations[i] for i in todo],
            seeds=[rng.randrange(2**31) for _ in todo],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            prefill=[opening[i] for i in todo],
            stop=CLOSED if prompt_key else (),
        )
        for i, reply in zip(todo, replies, strict=True):
            spent[i] += tokens_of(reply)
            found[i] = _read(reply, conversations[i], prompt_key, keys)
            if prompt_key and prefill:
                opening[i] = _up_to(prompt_key, prefill, reply.text)
    return [replace(found[i], tokens=spent[i]) for i in range(len(conversations))]


def _up_to(prompt_key: str, prefill: str, reply: str) -> str:
    """The opening of a reply up to the prompt, with what the reply before gave for the first field, if anything."""
    key = prefill.split('"')[1]
    first = (read_fields(reply, key) or {}).get(key, "not said")
    return f'{{"{key}": {json.dumps(first, ensure_ascii=False)}, "{prompt_key}": "'


def _read(reply: Completion, asked: Sequence[Message], prompt_key: str, keys: Sequence[str]) -> Proposal:
    if reply.error is not None:
        return Proposal(failure=Errored(error=f"the attacker failed: {reply.error}"))
    if prompt_key:
        found = read_object(reply.text, prompt_key, *keys)
        if found is not None and f'"{found[prompt_key]}"' not in asked[0].content:
            return Proposal(prompt=found[prompt_key], said=found, reply=json.dumps(found, ensure_ascii=False))
    else:
        text = read_line(reply.text)
        if text and answers.judge(asked[-1].content, text).label != "refusal":
            return Proposal(prompt=text, reply=reply.text)
    return Proposal(failure=Unscored(reason=f"the attacker gave no usable prompt: {reply.text[:120]!r}"))


def nothing_sent(case: Case, attack: str, proposal: Proposal, wrote: str) -> Attempt:
    """The attempt that could not be made, because the attacker gave nothing to send. It costs no query."""
    assert proposal.failure is not None
    return Attempt(
        case_id=case.id,
        attack=attack,
        messages=(),
        completion=None,
        outcome=proposal.failure,
        queries=0,
        helper_tokens=proposal.tokens,
        metadata={"attacker": wrote},
    )


def send_written(
    case: Case,
    attack: str,
    target: Model,
    judge: Judge,
    budget: AttackBudget,
    proposals: Sequence[Proposal],
    notes: Sequence[dict[str, Any]],
    wrote: str,
) -> list[Attempt]:
    """Send the written prompts in one batch, each in place of the case's last user turn; in order, with the attempts that
    could not be made."""
    usable = [i for i, p in enumerate(proposals) if p.failure is None]
    requests = [request(case, proposals[i].prompt, budget) for i in usable]
    details = [{**notes[i], "attacker": wrote} for i in usable]
    sent = (
        dict(zip(usable, send(case, attack, target, judge, budget, requests, details), strict=True)) if usable else {}
    )
    return [
        replace(sent[i], helper_tokens=p.tokens) if i in sent else nothing_sent(case, attack, p, wrote)
        for i, p in enumerate(proposals)
    ]


def send_fixed(
    case: Case,
    attack: str,
    target: Model,
    judge: Judge,
    budget: AttackBudget,
    prompts: Sequence[tuple[str, str]],
    **details: Any,
) -> Iterator[Attempt]:
    """Fixed prompts (label, text), one query each, until one succeeds or the budget is spent."""
    for label, prompt in prompts[: budget.queries]:
        note = {**details, "template": label}
        (attempt,) = send(case, attack, target, judge, budget, [request(case, prompt, budget)], [note])
        yield attempt
        if succeeded(attempt):
            return


def score_of(outcome: Outcome) -> int | None:
    """The judge's value on the scale from 1 to 10 that attackers are told; None without a verdict."""
    return 1 + round(9 * outcome.value) if isinstance(outcome, Scored) else None


def refused(outcome: Outcome) -> bool:
    """Whether the judge called the answer a refusal."""
    return isinstance(outcome, Scored) and outcome.label == "refusal"


def answer_of(attempt: Attempt) -> str:
    """What the target answered, empty when it did not."""
    return attempt.completion.text if attempt.completion else ""


__all__ = [
    "TEMPLATES",
    "Proposal",
    "answer_of",
    "before",
    "instructed",
    "nothing_sent",
    "propose",
    "refused",
    "said",
    "score_of",
    "send_fixed",
    "send_written",
    "tokens_of",
    "turn",
]
