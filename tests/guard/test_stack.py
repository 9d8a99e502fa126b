from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivefold.errors import UsageError
from fivefold.guard.refusals import refusals
from fivefold.guard.stack import GuardedModel, GuardStack, StackPolicy
from fivefold.guard.texts import text_of
from fivefold.runtime.backends.scripted import load as scripted
from fivefold.runtime.protocol import Capability, Model, Request
from fivefold.types import Completion, Exchange, Message, Stage, Verdict

ALL: frozenset[Stage] = frozenset({"input", "output", "tool_result"})


class Words:
    """Does to a text what a word in it says."""

    def __init__(self, name: str = "words", stages: frozenset[Stage] = ALL) -> None:
        self.name, self.stages, self.seen = name, stages, []

    @property
    def fingerprint(self) -> str:
        return self.name

    def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        self.seen.append(len(exchanges))
        return [self._one(text_of(e)) for e in exchanges]

    def _one(self, text: str) -> Verdict:
        if "CRASH" in text:
            raise RuntimeError("the guard fell over")
        for word, action in (("BLOCK", "block"), ("ERROR", "error"), ("ABSTAIN", "abstain")):
            if word in text:
                return Verdict(action=action, guard=self.name, reason=word.lower())  # type: ignore[arg-type]
        if "HIDE" in text:
            return Verdict(action="redact", guard=self.name, replacement=text.replace("HIDE", "#"))
        return Verdict(action="allow", guard=self.name)


def user(text: str, stage: Stage = "input") -> Exchange:
    return Exchange(messages=(Message(role="user", content=text),), stage=stage)


def ask(text: str, **fields: object) -> Request:
    return Request(messages=(Message(role="user", content=text),), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("hello", "allow"),
        ("BLOCK", "block"),
        ("HIDE it", "redact"),
        ("ERROR", "block"),
        ("CRASH", "block"),
        ("ABSTAIN", "allow"),
    ],
)
def test_what_the_stack_makes_of_a_word(text: str, action: str) -> None:
    (found,) = GuardStack([Words()]).check([user(text)])
    assert found.action == action
    assert found.verdicts[0].seconds >= 0


@given(st.lists(st.sampled_from(["fine", "BLOCK", "HIDE me", "ERROR", "CRASH", "ABSTAIN", "HIDE CRASH"]), max_size=8))
def test_a_batch_is_judged_as_each_exchange_alone(texts: list[str]) -> None:
    stack = GuardStack([Words("a"), Words("b")])
    batch = stack.check([user(t) for t in texts])
    alone = [stack.check([user(t)])[0] for t in texts]
    for one, other in zip(batch, alone, strict=True):
        assert (one.action, one.reason, one.replacement) == (other.action, other.reason, other.replacement)
        assert [t.verdict for t in one.verdicts] == [t.verdict for t in other.verdicts]


@given(st.lists(st.sampled_from(["allow", "abstain", "error", "crash", "short", "junk"]), min_size=1, max_size=4))
def test_an_error_is_never_an_allow(kinds: list[str]) -> None:
    class Odd(Words):
        def __init__(self, name: str, kind: str) -> None:
            super().__init__(name)
            self.kind = kind

        def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
            if self.kind == "crash":
                raise ValueError("no")
            if self.kind == "short":
                return []
            if self.kind == "junk":
                return ["allow"] * len(exchanges)  # type: ignore[list-item]
            return [Verdict(action=self.kind, guard=self.name) for _ in exchanges]  # type: ignore[arg-type]

    (found,) = GuardStack([Odd(str(i), k) for i, k in enumerate(kinds)]).check([user("x")])
    broken = set(kinds) & {"error", "crash", "short", "junk"}
    assert found.action == ("block" if broken else "allow")
    errors = [t.verdict for t in found.verdicts if t.verdict.action == "error"]
    assert bool(errors) == bool(broken)


def test_policies() -> None:
    for text, policy, action in (
        ("ERROR", StackPolicy(on_error="allow"), "allow"),
        ("ABSTAIN", StackPolicy(on_all_abstain="block"), "block"),
    ):
        assert GuardStack([Words()], policy).check([user(text)])[0].action == action


def test_the_second_guard_is_asked_only_while_nothing_has_blocked() -> None:
    first, second = Words("a"), Words("b")
    GuardStack([first, second]).check([user("BLOCK"), user("fine")])
    assert second.seen == [1]
    first, second = Words("a"), Words("b")
    GuardStack([first, second], StackPolicy(stop_at_block=False)).check([user("BLOCK"), user("fine")])
    assert second.seen == [2]


def test_the_second_guard_sees_what_the_first_left() -> None:
    class Sees(Words):
        def _one(self, text: str) -> Verdict:
            assert "HIDE" not in text
            return Verdict(action="allow", guard=self.name)

    (found,) = GuardStack([Words("a"), Sees("b")]).check([user("HIDE this")])
    assert found.action == "redact" and found.replacement == "# this"


def test_a_redaction_without_a_replacement_is_an_error() -> None:
    class Empty(Words):
        def _one(self, text: str) -> Verdict:
            return Verdict(action="redact", guard=self.name)

    assert GuardStack([Empty()]).check([user("x")])[0].action == "block"


def test_guards_of_other_stages_are_not_asked() -> None:
    guard = Words(stages=frozenset({"output"}))
    assert GuardStack([guard]).check([user("BLOCK")])[0].action == "allow" and guard.seen == []


def test_a_stack_needs_guards_with_names_of_their_own() -> None:
    for guards in ([], [Words(), Words()]):
        with pytest.raises(UsageError):
            GuardStack(guards)


def test_the_fingerprint_follows_guards_order_and_policy() -> None:
    a, b = Words("a"), Words("b")
    made = [GuardStack([a, b]), GuardStack([b, a]), GuardStack([a]), GuardStack([a, b], StackPolicy(on_error="allow"))]
    assert len({s.fingerprint for s in made}) == 4
    assert GuardStack([a, b]).fingerprint == made[0].fingerprint


# A model behind guards


@pytest.fixture
def guarded() -> GuardedModel:
    return GuardedModel(scripted("echo"), GuardStack([Words()]))


def test_it_is_a_model_with_another_fingerprint(guarded: GuardedModel) -> None:
    assert isinstance(guarded, Model)
    assert guarded.name.startswith("guarded:") and guarded.fingerprint != guarded.inner.fingerprint
    assert Capability.GRADIENTS not in guarded.capabilities


def test_only_allowed_requests_reach_the_model(guarded: GuardedModel) -> None:
    asked: list[Request] = []
    inner = guarded.inner.generate

    def spy(requests, *, on_done=None):
        asked.extend(requests)
        return inner(requests, on_done=on_done)

    guarded.inner.generate = spy  # type: ignore[method-assign]
    done: dict[int, Completion] = {}
    answers = guarded.generate(
        [ask("one"), ask("BLOCK two"), ask("HIDE three")], on_done=lambda i, c: done.update({i: c})
    )
    assert [r.messages[0].content for r in asked] == ["one", "# three"]
    assert [a.stop_reason == "filtered" for a in answers] == [False, True, False]
    assert done == dict(enumerate(answers))
    assert all(a.model == guarded.fingerprint for a in answers)
    assert answers[1].metadata["guard"]["blocked"] == "input"


@pytest.mark.parametrize(
    ("prompt", "language"), [("BLOCK it", "en"), ("BLOCK 이것을 막아 주세요", "ko"), ("BLOCKこれを止めて", "ja")]
)
def test_a_refusal_speaks_the_language_of_the_request(guarded: GuardedModel, prompt: str, language: str) -> None:
    (answer,) = guarded.generate([ask(prompt)])
    assert answer.text in refusals()[language]
    assert guarded.generate([ask(prompt)])[0].text == answer.text


def test_refusals_vary() -> None:
    model = GuardedModel(scripted("echo"), GuardStack([Words()]))
    assert len({a.text for a in model.generate([ask(f"BLOCK {i}") for i in range(30)])}) > 2
    assert all(len(texts) >= 5 == len(set(texts)) for texts in refusals().values())


@pytest.mark.parametrize(("word", "reason"), [("BLOCK", "filtered"), ("ERROR", "filtered"), ("CRASH", "filtered")])
def test_answers_are_checked_too(word: str, reason: str) -> None:
    model = GuardedModel(scripted("echo"), GuardStack([Words(stages=frozenset({"output"}))]))
    (answer,) = model.generate([ask(f"say {word}")])
    assert answer.stop_reason == reason and word not in answer.text and answer.tokens == ()
    assert answer.metadata["guard"]["blocked"] == "output"


def test_a_redacted_answer_keeps_its_stop_reason() -> None:
    model = GuardedModel(scripted("echo"), GuardStack([Words(stages=frozenset({"output"}))]))
    (answer,) = model.generate([ask("say HIDE")])
    assert "HIDE" not in answer.text and "#" in answer.text and answer.stop_reason == "stop"


def test_a_prefill_is_part_of_what_output_guards_see() -> None:
    seen: list[str] = []

    class Spy(Words):
        def _one(self, text: str) -> Verdict:
            seen.append(text)
            return Verdict(action="redact", guard=self.name, replacement=text.upper())

    model = GuardedModel(scripted("echo"), GuardStack([Spy(stages=frozenset({"output"}))]))
    (answer,) = model.generate([ask("abc", prefill="2: ")])
    assert seen[0].startswith("2: ") and not answer.text.startswith("2: ")


def test_a_failed_request_stays_failed() -> None:
    model = scripted("echo")
    model.generate = lambda requests, on_done=None: [Completion(text="", model="m", stop_reason="error", error="lost")]  # type: ignore[method-assign]
    (answer,) = GuardedModel(model, GuardStack([Words()])).generate([ask("hi")])
    assert answer.error == "lost" and answer.stop_reason == "error"


def test_every_tool_message_is_checked() -> None:
    model = GuardedModel(scripted("echo"), GuardStack([Words(stages=frozenset({"tool_result"}))]))
    messages = [Message(role="user", content="sum up"), *(Message(role="tool", content=t) for t in ("HIDE a", "b"))]
    (checked,) = model.check_inputs([Request(messages=tuple(messages))])
    assert checked.action == "redact" and len(checked.verdicts) == 2
    messages[1] = Message(role="tool", content="BLOCK")
    (answer,) = model.generate([Request(messages=tuple(messages))])
    assert answer.stop_reason == "filtered"


def test_likelihood_passes_through_under_the_guarded_fingerprint(guarded: GuardedModel) -> None:
    if Capability.LIKELIHOOD in guarded.capabilities:
        pair = ((Message(role="user", content="BLOCK"),), "yes")
        (ours,), (theirs,) = guarded.log_likelihood([pair]), guarded.inner.log_likelihood([pair])
        assert ours.total == theirs.total and ours.model == guarded.fingerprint
