"""Guards in order, with one policy for what they say, and a model that lives behind them.

`GuardStack` asks each guard in turn, keeps every verdict with what it cost, and fails closed: a guard that raises,
answers nothing or answers for another number of exchanges has said `error`, and an error blocks unless the policy says
otherwise. `GuardedModel` satisfies the `Model` protocol, so whoever evaluates or attacks it need not know that guards
stand before it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from fivefold.errors import UsageError
from fivefold.guard.protocol import Guard
from fivefold.guard.refusals import refusal
from fivefold.guard.texts import new_message, with_text
from fivefold.runtime.protocol import Capability, Context, Model, OnDone, Request
from fivefold.types import Completion, Exchange, Likelihood, Stage, Verdict, digest, plain

Final: TypeAlias = Literal["allow", "block", "redact"]
ACTIONS = frozenset({"allow", "block", "redact", "abstain", "error"})


@dataclass(frozen=True, kw_only=True)
class StackPolicy:
    """What the stack does with what its guards say."""

    on_error: Literal["block", "allow"] = "block"
    """A guard could not look. `allow` opens the gate whenever a guard breaks: only for guards that advise."""
    on_all_abstain: Literal["block", "allow"] = "allow"
    """Every guard of the stage called the exchange outside what it can judge (say, a language without a threshold)."""
    stop_at_block: bool = True
    """Leave the remaining guards out once one has blocked; False asks them all, for the record."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A verdict and the wall seconds it took: the guard's time for the batch, divided by the exchanges in it."""

    verdict: Verdict
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StackVerdict:
    """What the stack does with one exchange, and what each guard said. `replacement` is the redacted text."""

    action: Final
    verdicts: tuple[Timed, ...]
    reason: str = ""
    replacement: str | None = None

    @property
    def seconds(self) -> float:
        """What the guards cost this exchange."""
        return sum(t.seconds for t in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a completion's metadata."""
        said = [{**dict(_plain(t.verdict)), "seconds": round(t.seconds, 6)} for t in self.verdicts]
        return {"action": self.action, "reason": self.reason, "verdicts": said}


def _plain(verdict: Verdict) -> Mapping[str, Any]:
    found = plain(verdict)
    assert isinstance(found, dict)
    return found


class GuardStack:
    """Guards in the order in which they are asked."""

    def __init__(self, guards: Sequence[Guard], policy: StackPolicy | None = None) -> None:
        names = Counter(g.name for g in guards)
        twice = [n for n, k in names.items() if k > 1]
        if twice:
            raise UsageError(f"two guards are called {twice[0]!r}", next_step="give one of them another name")
        if not guards:
            raise UsageError("a stack needs at least one guard")
        self.guards, self.policy = tuple(guards), policy or StackPolicy()

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over the guards in order and the policy."""
        return digest({"guards": [[g.name, g.fingerprint] for g in self.guards], "policy": plain(self.policy)})

    def has_stage(self, stage: Stage) -> bool:
        """Whether any guard looks at this stage."""
        return any(stage in g.stages for g in self.guards)

    def check(self, exchanges: Sequence[Exchange]) -> list[StackVerdict]:
        """One decision per exchange, each as if it had been checked alone."""
        states = [_State(exchange) for exchange in exchanges]
        for guard in self.guards:
            asked = [s for s in states if s.exchange.stage in guard.stages and not self._done(s)]
            for state, timed in zip(asked, _ask(guard, [s.exchange for s in asked]), strict=True):
                state.hear(timed, self.policy)
        return [s.decision(self.policy) for s in states]

    def _done(self, state: _State) -> bool:
        return state.blocked_by is not None and self.policy.stop_at_block


class _State:
    """What is known of one exchange while the stack works."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.said: list[Timed] = []
        self.blocked_by: Verdict | None = None
        self.replacement: str | None = None

    def hear(self, timed: Timed, policy: StackPolicy) -> None:
        self.said.append(timed)
        verdict = timed.verdict
        fatal = verdict.action == "block" or (verdict.action == "error" and policy.on_error == "block")
        if fatal and self.blocked_by is None:
            self.blocked_by = verdict
        if verdict.action == "redact" and verdict.replacement is not None:
            self.replacement = verdict.replacement
            self.exchange = with_text(self.exchange, verdict.replacement)

    def decision(self, policy: StackPolicy) -> StackVerdict:
        said = tuple(self.said)
        if self.blocked_by is not None:
            why = f"{self.blocked_by.guard}: {self.blocked_by.reason or self.blocked_by.action}"
            return StackVerdict(action="block", verdicts=said, reason=why)
        if said and all(t.verdict.action == "abstain" for t in said) and policy.on_all_abstain == "block":
            return StackVerdict(action="block", verdicts=said, reason="every guard abstained")
        if self.replacement is not None:
            who = ", ".join(t.verdict.guard for t in said if t.verdict.action == "redact")
            return StackVerdict(
                action="redact", verdicts=said, reason=f"redacted by {who}", replacement=self.replacement
            )
        return StackVerdict(action="allow", verdicts=said)


def _ask(guard: Guard, exchanges: Sequence[Exchange]) -> list[Timed]:
    """One timed verdict per exchange. When a batch fails, each exchange is asked alone, so that one bad exchange does
    not decide for its neighbours."""
    if not exchanges:
        return []
    started = time.perf_counter()
    try:
        verdicts = _checked(guard, exchanges, guard.check(exchanges))
    except Exception as error:
        if len(exchanges) > 1:
            return [timed for exchange in exchanges for timed in _ask(guard, [exchange])]
        verdicts = [Verdict(action="error", guard=guard.name, reason=f"{type(error).__name__}: {error}"[:300])]
    seconds = (time.perf_counter() - started) / len(exchanges)
    return [Timed(verdict=v, seconds=seconds) for v in verdicts]


def _checked(guard: Guard, exchanges: Sequence[Exchange], verdicts: Any) -> list[Verdict]:
    """The verdicts, or an exception when they are not one well-formed verdict per exchange."""
    found = list(verdicts)
    if len(found) != len(exchanges):
        raise UsageError(f"guard {guard.name} gave {len(found)} verdicts for {len(exchanges)} exchanges")
    for verdict in found:
        if not isinstance(verdict, Verdict) or verdict.action not in ACTIONS:
            raise UsageError(f"guard {guard.name} gave no verdict", got=repr(verdict)[:100])
        if verdict.action == "redact" and verdict.replacement is None:
            raise UsageError(f"guard {guard.name} redacts without a replacement")
    return found


class GuardedModel:
    """A model behind guards. Blocked requests never reach it and are answered with a refusal in their own language.

    The input stage sees the conversation (and the prefill, in the exchange's metadata), the `tool_result` stage what
    tools returned, the output stage the whole answer including the prefill. Completions carry the decisions in
    `metadata["guard"]`; a blocked one has stop reason `filtered`.

    `log_likelihood` passes through unguarded when the inner model has it: it measures what the model behind the guards
    knows, and shows no text. What guards cost capability is measured by `check_inputs` on the same prompts.
    """

    def __init__(self, inner: Model, stack: GuardStack, *, name: str | None = None) -> None:
        self.inner, self.stack = inner, stack
        self._name = name or f"guarded:{inner.name}"

    @property
    def name(self) -> str:
        """`guarded:` and the inner model's name."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over the inner model and everything that changes verdicts."""
        return digest({"model": self.inner.fingerprint, "guards": self.stack.fingerprint})

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Text in, text out: what the inner model offers of generation, prefill and likelihood."""
        return self.inner.capabilities & {Capability.GENERATE, Capability.PREFILL, Capability.LIKELIHOOD}

    def check_inputs(self, requests: Sequence[Request]) -> list[StackVerdict]:
        """What the guards say before anything is generated."""
        return [verdict for _, verdict in self._screen(requests)]

    def _screen(self, requests: Sequence[Request]) -> list[tuple[Request, StackVerdict]]:
        """Each request as the model may see it, and the decision on it; all parts of all requests are checked at
        once."""
        parts = [part for index, request in enumerate(requests) for part in _parts(index, request)]
        decisions = self.stack.check([p.exchange for p in parts])
        screened = [(request, StackVerdict(action="allow", verdicts=())) for request in requests]
        for part, decision in zip(parts, decisions, strict=True):
            request, so_far = screened[part.request]
            if decision.action == "redact" and decision.replacement is not None:
                request = part.redacted(request, decision.replacement)
            screened[part.request] = (request, _worst(so_far, decision))
        return screened

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """Answers in the order of the requests; all inputs are checked at once and only the allowed ones are
        generated."""
        results: dict[int, Completion] = {}

        def finish(index: int, completion: Completion) -> None:
            results[index] = completion
            if on_done is not None:
                on_done(index, completion)

        asked: list[tuple[int, Request, StackVerdict]] = []
        for i, (request, verdict) in enumerate(self._screen(requests)):
            if verdict.action == "block":
                finish(i, self._refused(request, {"input": verdict.to_json(), "blocked": "input"}))
            else:
                asked.append((i, request, verdict))

        def answered(at: int, completion: Completion) -> None:
            index, request, verdict = asked[at]
            if index not in results:
                finish(index, self._guarded(request, completion, verdict))

        if asked:
            for at, completion in enumerate(self.inner.generate([r for _, r, _ in asked], on_done=answered)):
                answered(at, completion)
        return [results[i] for i in range(len(requests))]

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """The inner model's likelihoods, unguarded (see the class), under this model's fingerprint."""
        return [replace(found, model=self.fingerprint) for found in self.inner.log_likelihood(pairs)]

    def _guarded(self, request: Request, completion: Completion, before: StackVerdict) -> Completion:
        """The completion after the output guards."""
        said: dict[str, Any] = {"input": before.to_json()}
        if completion.error is not None:
            return replace(completion, model=self.fingerprint, metadata={**completion.metadata, "guard": said})
        answer = request.prefill + completion.text
        exchange = Exchange(
            messages=request.messages, answer=answer, stage="output", metadata={"prefill": request.prefill}
        )
        (after,) = self.stack.check([exchange])
        said["output"] = after.to_json()
        if after.action == "block":
            return self._refused(request, {**said, "blocked": "output"}, completion)
        redacted = after.action == "redact" and after.replacement is not None
        text = (after.replacement or "").removeprefix(request.prefill) if redacted else completion.text
        metadata = {**completion.metadata, "guard": said}
        tokens = () if redacted else completion.tokens
        return replace(completion, text=text, tokens=tokens, model=self.fingerprint, metadata=metadata)

    def _refused(self, request: Request, said: Mapping[str, Any], answer: Completion | None = None) -> Completion:
        """The refusal in place of an answer that was not made, or is not shown."""
        base = answer or Completion(text="", model=self.fingerprint, seed=request.seed)
        at = new_message(request.messages, "input")
        return replace(
            base,
            text=refusal("" if at is None else request.messages[at].content),
            tokens=(),
            model=self.fingerprint,
            stop_reason="filtered",
            metadata={**base.metadata, "guard": said},
        )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One piece of a request that guards look at: the conversation, or message `message` that a tool returned."""

    request: int
    exchange: Exchange
    message: int | None = None

    def redacted(self, request: Request, text: str) -> Request:
        """The request with this piece's text replaced."""
        at = new_message(request.messages, "input") if self.message is None else self.message
        return replace(
            request,
            messages=tuple(replace(m, content=text) if i == at else m for i, m in enumerate(request.messages)),
        )


def _parts(index: int, request: Request) -> list[_Part]:
    metadata = {"prefill": request.prefill} if request.prefill else {}
    whole = Exchange(messages=request.messages, stage="input", metadata=metadata)
    tools = [
        _Part(request=index, message=i, exchange=Exchange(messages=request.messages[: i + 1], stage="tool_result"))
        for i, m in enumerate(request.messages)
        if m.role == "tool"
    ]
    return [_Part(request=index, exchange=whole), *tools]


def _worst(first: StackVerdict, second: StackVerdict) -> StackVerdict:
    """Both decisions as one: block over redact over allow."""
    order: tuple[Final, ...] = ("allow", "redact", "block")
    worst = max(first, second, key=lambda v: order.index(v.action))
    return replace(worst, verdicts=(*first.verdicts, *second.verdicts))
