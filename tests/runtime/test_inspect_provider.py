"""Inspect providers as models, shown on fivefold's own provider: no key, no network."""

from __future__ import annotations

import pytest

pytest.importorskip("inspect_ai")

import fivefold.engine.provider  # noqa: F401  (registers the provider, as its entry point does when installed)
from fivefold.errors import CapabilityError, ModelError
from fivefold.runtime.backends.inspect_provider import load
from fivefold.runtime.protocol import Request
from fivefold.types import Message


def requests(n: int, **fields):
    return [Request(messages=(Message(role="user", content=f"message {i}"),), **fields) for i in range(n)]


def test_answers_come_in_order_through_the_provider() -> None:
    done: list[int] = []
    answers = load("fivefold/scripted:echo").generate(requests(20), on_done=lambda i, _: done.append(i))
    assert [a.text for a in answers] == [f"message {i}" for i in range(20)]
    assert sorted(done) == list(range(20))
    assert answers[3].usage.completion == 2 and answers[3].error is None


def test_the_limit_of_tokens_arrives() -> None:
    answer = load("fivefold/scripted:echo").generate(requests(1, max_new_tokens=1))[0]
    assert (answer.text, answer.stop_reason) == ("message", "length")


def test_a_failing_request_is_an_error_completion(tmp_path) -> None:
    script = tmp_path / "bot.yaml"
    script.write_text("- {match: 'message 1', error: broken pipe}\n- {answer: fine}\n")
    answers = load(f"fivefold/scripted:{script}").generate(requests(3))
    assert [a.text for a in answers] == ["fine", "", "fine"]
    assert "broken pipe" in (answers[1].error or "")


def test_prefill_and_likelihood_are_refused() -> None:
    model = load("fivefold/scripted:echo")
    assert "prefill" in (model.generate(requests(1, prefill="Sure"))[0].error or "")
    with pytest.raises(CapabilityError):
        model.log_likelihood([("a", "b")])


def test_a_provider_that_cannot_start_says_why() -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load("no-such-provider/model").generate(requests(1))


def test_the_fingerprint_follows_name_and_options() -> None:
    assert load("fivefold/scripted:echo").fingerprint != load("fivefold/scripted:refuse").fingerprint
    assert load("openai/x", base_url="http://a").fingerprint != load("openai/x").fingerprint
