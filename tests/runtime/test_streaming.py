"""Streaming: the pieces are the answer, in order, and no piece has to be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.runtime.streaming import TextStream, stream
from fivefold.types import Message

WORDS = ["Sure", ", here", " is the", " 한국", "어 ", "日本", "語 text", ". STO", "re and S", "TOP", " never seen"]


def pieces_of(tokens: Sequence[bytes], stops: Sequence[str], final: str) -> list[str]:
    """What is given out of tokens that are bytes."""
    given: list[str] = []
    writer = TextStream(lambda ids: b"".join(tokens[i] for i in ids).decode(errors="replace"), stops, given.append)
    for n in range(1, len(tokens)):
        writer.push(range(n))
    writer.finish(final)
    return given


def ask(prompt: str, **fields: Any) -> Request:
    return Request(messages=(Message(role="user", content=prompt),), **{"max_new_tokens": 24, **fields})


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_characters_and_stop_strings_that_are_cut_by_tokens_wait(size: int) -> None:
    whole = "".join(WORDS).encode()
    tokens = [whole[i : i + size] for i in range(0, len(whole), size)]
    cut = "".join(WORDS).split("STOP")[0]
    until = next(n for n in range(len(tokens) + 1) if b"STOP" in b"".join(tokens[:n]))
    given = pieces_of(tokens[:until], ["STOP", "never"], cut)
    assert "".join(given) == cut and all(given)
    assert "\ufffd" not in "".join(given)
    assert "".join(pieces_of(tokens, [], "".join(WORDS))) == "".join(WORDS)


def test_what_could_be_a_stop_string_is_given_once_it_is_not() -> None:
    tokens = [b"a", b"<", b"/", b"b", b">"]
    assert pieces_of(tokens, ["</end>"], "a</b>") == ["a", "</b", ">"]


@pytest.mark.parametrize("packed", [True, False])
def test_pieces_join_to_the_text_of_each_answer(model: Any, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(model.engine, "packed", packed)
    asked = [ask(f"say {i}", temperature=1.0, seed=i, stop=("e",) if i % 2 else ()) for i in range(6)]
    heard: dict[int, list[str]] = {i: [] for i in range(6)}
    order: list[int] = []
    answers = model.generate(asked, on_text=lambda i, piece: (heard[i].append(piece), order.append(i)))
    assert ["".join(heard[i]) for i in range(6)] == [a.text for a in answers]
    assert [a.tokens for a in answers] == [a.tokens for a in model.generate(asked)]
    if packed:
        assert max(len(h) for h in heard.values()) > 3
        assert order != sorted(order), "answers are written side by side"


def test_an_answer_is_read_piece_by_piece(model: Any) -> None:
    answer = stream(model, ask("hello", temperature=1.0, seed=3))
    pieces = list(answer)
    assert answer.completion is not None and "".join(pieces) == answer.completion.text
    assert len(pieces) > 3


def test_who_leaves_early_ends_the_generation(model: Any) -> None:
    answer = stream(model, ask("hello", temperature=1.0, seed=3, max_new_tokens=400))
    for _ in answer:
        break
    assert model.generate([ask("hello")])[0].error is None, "the model is free again"
    assert answer.completion is None


def test_a_model_that_cannot_stream_answers_whole_and_failures_are_not_hidden(tmp_path: Any) -> None:
    answer = stream(load("scripted:echo"), ask("say this"))
    pieces = list(answer)
    assert answer.completion is not None and pieces == [answer.completion.text]
    (tmp_path / "rules.jsonl").write_text('{"match": "x", "answer": "y"}')
    failed = stream(load(f"scripted:{tmp_path / 'rules.jsonl'}"), ask("nothing matches"))
    assert list(failed) == [] and failed.completion is not None and failed.completion.error

    class Broken:
        def generate(self, requests: Any) -> Any:
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        list(stream(Broken(), ask("x")))  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [True, False])
def test_an_error_of_the_listener_reaches_the_caller(model: Any, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(model.engine, "packed", packed)

    def fail(index: int, piece: str) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.generate([ask("x", temperature=1.0, seed=1)], on_text=fail)
