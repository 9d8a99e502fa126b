"""What an attack is expected to take, before anything is asked: requests and tokens, from its options and its budget.

An attack that searches says so itself, by a method `cost(budget, prompt_tokens=, behaviours=) -> Cost`. All others send
prompts until one succeeds: at most `most_queries` where they have so few, else as many as the budget allows, of which
`SHARE` is used on average. Requests to helping models count like those to the target. An estimate, not a limit: limits are
`SpendCap`'s. Written for this project; there is no paper.
"""

from __future__ import annotations

from typing import Any

from fivefold.redteam.helpers import HelpedAttack
from fivefold.redteam.protocol import Attack, AttackBudget
from fivefold.runtime.protocol import Cost

PROMPT_TOKENS = 90
"""Tokens of a short request in a chat template and a wrapper."""
SHARE = 0.6
"""Of the queries, because an attack ends with its first success."""
HELPER_PROMPT, HELPER_ANSWER = 350, 150
"""Tokens of an attacker's instructions with what it has seen, and of its reply, about."""
BACKWARD = 2
"""A backward pass, in forward passes."""


def cost_of(
    attack: Attack | None,
    budget: AttackBudget,
    *,
    behaviours: int,
    helpers: int = 0,
    prompt_tokens: int = PROMPT_TOKENS,
) -> Cost:
    """The cost of one attack on so many behaviours, where `helpers` models help those attacks that ask for help. None is
    an attack that cannot be made here, because its data or its package are missing."""
    inner: Any = getattr(attack, "attack", attack)
    if hasattr(inner, "cost"):
        found: Cost = inner.cost(budget, prompt_tokens=prompt_tokens, behaviours=behaviours)
        return found
    helped = helpers > 0 and isinstance(inner, HelpedAttack)
    most = None if helped else getattr(inner, "most_queries", None)
    n = queries(budget, most) * behaviours
    return asked(n, budget, prompt_tokens) + (_helping(n * helpers) if helped else Cost())


def _helping(n: int) -> Cost:
    """`n` requests to helping models that answer what they are asked for at once; those that do not are asked again."""
    return Cost(requests=n, prompt_tokens=n * HELPER_PROMPT, completion_tokens=n * HELPER_ANSWER)


def queries(budget: AttackBudget, most: int | None = None) -> int:
    """Queries to expect for one behaviour."""
    allowed = budget.queries if most is None else min(budget.queries, most)
    return 1 if allowed == 1 else max(1, round(allowed * SHARE))


def asked(n: int, budget: AttackBudget, prompt_tokens: int) -> Cost:
    """`n` requests with prompts of one length."""
    return Cost(requests=n, prompt_tokens=n * prompt_tokens, completion_tokens=n * budget.max_new_tokens)


def searched(
    budget: AttackBudget, prompt_tokens: int, *, a_step: int, behaviours: int, most: int | None = None
) -> Cost:
    """A search of `budget.steps` steps for every behaviour, `a_step` tokens each, and the tests of what it finds."""
    tests = asked(queries(budget, most) * behaviours, budget, prompt_tokens)
    return tests + Cost(prompt_tokens=behaviours * budget.steps * a_step)
