"""A cap on what a whole campaign may spend, over all attacks and behaviours, and the purse that keeps to it.

`AttackBudget` limits one behaviour and is the same for every model that is compared; a cap limits the bill, a deadline the
time. What either cuts off is Unscored: not tried, which is not withstood. Queries never exceed the cap; tokens are known
only when answers are in, so they may exceed it by one batch. A likelihood is no query, but what it reads counts. What an
attack asks of the open model itself, past the target's door, is known after each of its attempts, and paid then. Answers
from a cache count like any other, so that reruns stop at the same place.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fivefold.errors import BudgetError, UsageError
from fivefold.redteam.protocol import Attempt
from fivefold.runtime.protocol import Capability, Context, Model, OnDone, Request
from fivefold.types import Completion, Likelihood

TIME_SPENT = "the time budget was spent"


@dataclass(frozen=True, kw_only=True)
class SpendCap:
    """Limits of one campaign; None is no limit."""

    queries: int | None = None
    """Requests to the target and to the models that help, together."""
    tokens: int | None = None
    """Prompt and answer tokens of the target and of the models that help, together."""
    money: float | None = None
    """In the unit of `price`; needs one."""
    price: float | None = None
    """For a million tokens, prompt and answer alike."""

    def __post_init__(self) -> None:
        for name in ("queries", "tokens", "money", "price"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"a spend cap cannot be negative: {name}", got=value)
        if self.money is not None and not self.price:
            raise UsageError("a cap on money needs a price", expected="the price of a million tokens")

    @property
    def token_limit(self) -> float | None:
        """Tokens that may be spent, from the caps on tokens and on money."""
        paid = None if self.money is None or not self.price else self.money / self.price * 1e6
        limits = [x for x in (self.tokens, paid) if x is not None]
        return min(limits) if limits else None


def tokens_of(answer: Completion | Likelihood) -> int:
    """Tokens that an answer took: of the prompt and the answer, or of the texts that were read (of the continuation alone,
    where the model does not say more)."""
    if isinstance(answer, Completion):
        return answer.usage.prompt + answer.usage.completion
    return answer.n_tokens if answer.read is None else answer.read


class Purse:
    """What a campaign has spent, and whether it may spend more. Used under the lock of a meeting, or by one thread.

    `deadline` is a `time.monotonic()` value after which nothing is paid any more.
    """

    def __init__(self, cap: SpendCap, deadline: float | None = None) -> None:
        self.cap, self.deadline = cap, deadline
        self.queries = 0
        self.tokens = 0

    @property
    def money(self) -> float | None:
        """Spent so far, where a price is known."""
        return None if not self.cap.price else self.tokens * self.cap.price / 1e6

    @property
    def refusal(self) -> BudgetError | None:
        """Why not even one more request can be paid; None when it can."""
        return self._refusal(1)

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline, never less than 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def reserve(self, n: int) -> BudgetError | None:
        """Pay for `n` requests, all or none; the error that says why not."""
        refusal = self._refusal(n)
        if refusal is None:
            self.queries += n
        return refusal

    def charge(self, answers: Sequence[Completion | Likelihood]) -> None:
        """Count the tokens of what came in."""
        self.tokens += sum(map(tokens_of, answers))

    def settle(self, attempts: Iterable[Attempt]) -> Iterator[Attempt]:
        """The attempts of one attack that runs alone, each with what it spent past the target's door paid afterwards.

        Raises BudgetError where the purse is empty before the next attempt, and where the time ended an attack that had
        no success: its search was cut short.
        """
        queries, tokens, done = self.queries, self.tokens, False
        for attempt in attempts:
            queries, tokens = queries + attempt.queries, tokens + attempt.tokens
            self.queries, self.tokens = max(self.queries, queries), max(self.tokens, tokens)
            yield attempt
            done = getattr(attempt.outcome, "value", 0.0) >= 0.5
            if not done and (refusal := self.refusal):
                raise refusal
        if not done and self.seconds_left == 0:
            raise BudgetError(TIME_SPENT)

    def _refusal(self, n: int) -> BudgetError | None:
        queries, tokens = self.cap.queries, self.cap.token_limit
        if self.seconds_left == 0:
            return BudgetError(TIME_SPENT)
        if queries is not None and self.queries + n > queries:
            return BudgetError("the campaign's cap on queries was reached", expected=f"at most {queries}")
        if tokens is not None and self.tokens >= tokens:
            return BudgetError("the campaign's cap on tokens was reached", expected=f"at most {tokens:g}")
        return None


class PaidModel:
    """`inner` behind a purse, for attacks that run alone. BudgetError when the purse cannot pay."""

    def __init__(self, inner: Model, purse: Purse) -> None:
        self.inner, self.purse = inner, purse

    @property
    def name(self) -> str:
        """The inner model's name."""
        return self.inner.name

    @property
    def fingerprint(self) -> str:
        """The inner model's fingerprint."""
        return self.inner.fingerprint

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The inner model's capabilities."""
        return self.inner.capabilities

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Read, then pay: it is no query."""
        if refusal := self.purse.reserve(0):
            raise refusal
        found = self.inner.log_likelihood(pairs)
        self.purse.charge(found)
        return found

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """Pay, then ask."""
        if refusal := self.purse.reserve(len(requests)):
            raise refusal
        answers = self.inner.generate(requests, on_done=on_done)
        self.purse.charge(answers)
        return answers
