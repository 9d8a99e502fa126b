"""Generation: what a request answers depends on nothing but the request."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request, WhiteBox
from fivefold.types import Completion, Message

PROMPTS = (
    "What is the capital of France?",
    "The quick brown fox",
    "jumps over the lazy dog, and over the quick brown fox, and over the box with five dozen liquor jugs",
    "What is the capital of Spain?",
    "judge my vow",
    "x",
)
SYSTEM = "You are a helpful assistant. Sure, I cannot help with that."


def ask(prompt: str, system: str = "", **fields: Any) -> Request:
    head = (Message(role="system", content=system),) if system else ()
    return Request(messages=(*head, Message(role="user", content=prompt)), **{"max_new_tokens": 20, **fields})


def reference(model: Any, request: Request) -> list[int]:
    """Greedy tokens by the module's own forward, one sequence at a time, without any cache."""
    ids = model.encode(request.messages, prefill=request.prefill)
    out: list[int] = []
    while len(out) < request.max_new_tokens:
        with torch.no_grad():
            token = int(model.module(torch.tensor([ids + out])).logits[0, -1].argmax())
        if token in model.eos:
            break
        out.append(token)
    return out


def test_the_model_packs(model: Any) -> None:
    assert model.engine.packed
    assert isinstance(model, WhiteBox)


@pytest.mark.parametrize("system", ["", SYSTEM])
def test_a_batch_answers_like_the_module_alone(model: Any, system: str) -> None:
    requests = [ask(p, system) for p in PROMPTS] * 2
    for request, completion in zip(requests, model.generate(requests), strict=True):
        assert list(completion.tokens) == reference(model, request)
        assert completion.error is None


def test_answers_differ_between_prompts(model: Any) -> None:
    """The other tests would pass on a model that always says the same."""
    assert len({c.text for c in model.generate([ask(p) for p in PROMPTS])}) == len(PROMPTS)


@pytest.mark.parametrize("slots", [1, 3])
def test_few_slots_give_the_same_answers(folder: Any, model: Any, slots: int) -> None:
    requests = [ask(p, SYSTEM, max_new_tokens=3 + 5 * i) for i, p in enumerate(PROMPTS)]
    small = load(str(folder), slots=slots, pack_tokens=32)
    assert [c.tokens for c in small.generate(requests)] == [c.tokens for c in model.generate(requests)]


def test_long_prompts_are_computed_in_chunks(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import fivefold.runtime._generate as generate

    requests = [ask(p + " fox" * 60, SYSTEM) for p in PROMPTS[:3]]
    expected = [c.tokens for c in model.generate(requests)]
    monkeypatch.setattr(generate, "CHUNK", 16)
    assert [c.tokens for c in model.generate(requests)] == expected


def test_sampling_does_not_depend_on_the_batch(model: Any) -> None:
    requests = [ask(p, temperature=1.0, seed=i) for i, p in enumerate(PROMPTS)]
    alone = [model.generate([r])[0].tokens for r in requests]
    assert [c.tokens for c in model.generate(requests)] == alone
    assert [c.tokens for c in model.generate(requests[::-1])] == alone[::-1]


def test_seeds_differ_and_repeat(model: Any) -> None:
    requests = [ask(PROMPTS[0], temperature=1.5, seed=s, top_p=0.9) for s in range(8)]
    first, second = ([c.text for c in model.generate(requests)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 4


def test_usage_counts_what_was_shared(model: Any) -> None:
    request = ask(PROMPTS[0], SYSTEM)
    length = len(model.encode(request.messages))
    completions = model.generate([request] * 4)
    assert [c.usage.prompt for c in completions] == [length] * 4
    assert sorted(c.usage.shared for c in completions) == [0, length - 1, length - 1, length - 1]
    assert all(c.usage.completion >= len(c.tokens) for c in completions)


def test_stop_strings_end_the_answer(model: Any) -> None:
    whole = model.generate([ask(PROMPTS[0])])[0]
    stop = whole.text[4:7]
    cut = model.generate([ask(PROMPTS[0], stop=(stop, "never said"))])[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.stop_reason == "stop"
    assert cut.usage.completion < whole.usage.completion


def test_length_and_end_are_told_apart(model: Any) -> None:
    assert model.generate([ask(PROMPTS[0], max_new_tokens=2)])[0].stop_reason == "length"


def test_prefill_is_continued_and_not_repeated(model: Any) -> None:
    request = ask(PROMPTS[0], prefill="Sure, here")
    completion = model.generate([request])[0]
    assert list(completion.tokens) == reference(model, request)
    assert not completion.text.startswith("Sure, here")


def test_one_bad_request_spoils_no_other(model: Any) -> None:
    good, long, zero = ask(PROMPTS[0]), ask("fox " * 600), ask(PROMPTS[1], max_new_tokens=0)
    first, second, third, fourth = model.generate([good, long, zero, good])
    assert first.error is None and first.tokens == fourth.tokens
    assert second.stop_reason == "error" and second.error is not None and "512" in second.error
    assert third.error is not None and "max_new_tokens" in third.error


def test_a_failing_step_becomes_errors_and_the_rest_goes_on(
    folder: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = load(str(folder), slots=2)
    requests = [ask(p) for p in PROMPTS]
    calls = {"n": 0}
    forward = type(small.engine).forward

    def failing(self: Any, *args: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == 2:
            raise RuntimeError("out of memory")
        return forward(self, *args)

    monkeypatch.setattr(type(small.engine), "forward", failing)
    completions = small.generate(requests)
    monkeypatch.undo()
    failed = [c for c in completions if c.error]
    assert len(failed) == 2 and all("out of memory" in c.error for c in failed if c.error)
    expected = [c.tokens for c in model.generate(requests)]
    assert all(c.tokens == e for c, e in zip(completions, expected, strict=True) if not c.error)


def test_done_is_called_once_for_each_as_it_finishes(model: Any) -> None:
    seen: list[tuple[int, Completion]] = []
    requests = [ask(p, max_new_tokens=n) for p, n in zip(PROMPTS, (9, 1, 5, 3, 7, 2), strict=True)]
    completions = model.generate(requests, on_done=lambda i, c: seen.append((i, c)))
    assert sorted(i for i, _ in seen) == list(range(len(requests)))
    assert all(completions[i] is c for i, c in seen)
    assert seen[0][0] == 1


def test_an_error_in_the_callback_reaches_the_caller(model: Any) -> None:
    def fail(index: int, completion: Completion) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.generate([ask(PROMPTS[0])], on_done=fail)
    assert model.generate([ask(PROMPTS[0])])[0].error is None


@pytest.mark.parametrize("packed", [True, False])
def test_requests_may_join_while_others_are_answered(model: Any, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(model.engine, "packed", packed)
    requests = [ask(p, SYSTEM, max_new_tokens=6 + i) for i, p in enumerate(PROMPTS)]
    expected = [c.tokens for c in model.generate(requests)]
    arriving = [[requests[2]], [], [requests[3], requests[4]], [requests[5]]]
    seen: list[int] = []
    got = model.generate(
        requests[:2], on_done=lambda i, c: seen.append(i), more=lambda: arriving.pop(0) if arriving else []
    )
    assert [c.tokens for c in got] == expected
    assert sorted(seen) == list(range(6)) and arriving == []
    if packed:
        assert got[5].usage.shared > 0


def test_nothing_asked_nothing_answered(model: Any) -> None:
    assert model.generate([]) == []


def test_threads_may_ask_at_once(model: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = [c.tokens for c in model.generate([ask(p) for p in PROMPTS])]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda p: model.generate([ask(p)])[0].tokens, PROMPTS))
    assert answers == expected


def test_an_architecture_that_cannot_pack_still_answers_right(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [ask(p) for p in PROMPTS[:3]]
    expected = [c.tokens for c in model.generate(requests)]
    monkeypatch.setattr(model.engine, "packed", False)
    assert [c.tokens for c in model.generate(requests)] == expected


def test_the_nucleus_is_exact() -> None:
    from fivefold.runtime._sample import sample

    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    draws = [sample(logits, 1.0, 0.8, u / 1000) for u in range(1000)]
    assert set(draws) == {0, 1}
    assert abs(draws.count(0) / 1000 - 0.5 / 0.8) < 0.01
    flat = [sample(logits, 1.0, 1.0, u / 1000) for u in range(1000)]
    assert [flat.count(i) for i in range(4)] == pytest.approx([500, 300, 150, 50], abs=2)
