"""Requests of samples that come later join the running batch, also through the memory of answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from _tiny import tiny_folder
from fivefold.engine.serving import Served
from fivefold.runtime.cached import CachedModel
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.types import Completion, Message


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(str(tiny_folder(tmp_path_factory.mktemp("tiny") / "model")))


class Remembered(dict[str, Mapping[str, Any]]):
    def cached(self, keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        return {k: self[k] for k in keys if k in self}

    def remember(self, key: str, value: Mapping[str, Any]) -> None:
        self[key] = value


def ask(prompt: str, n: int) -> Request:
    return Request(messages=(Message(role="user", content=prompt),), max_new_tokens=n, temperature=1.0, seed=n)


@pytest.mark.parametrize("memory", [False, True])
def test_a_short_answer_does_not_wait_for_a_long_one_that_runs(
    model: Any, monkeypatch: pytest.MonkeyPatch, memory: bool
) -> None:
    monkeypatch.setitem(vars(model), "eos", frozenset())
    running, calls = threading.Event(), [0]
    forward = model.engine.forward

    def counted(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            running.set()
        return forward(*arguments, **options)

    monkeypatch.setattr(type(model.engine), "forward", lambda self, *a, **o: counted(*a, **o))
    served = Served(CachedModel(model, Remembered()) if memory else model)
    ended: list[str] = []
    long = served.generate(ask("a long answer", 300))
    long.add_done_callback(lambda f: ended.append("long"))
    assert running.wait(60)
    short = served.generate(ask("a short answer", 4))
    short.add_done_callback(lambda f: ended.append("short"))
    assert len(short.result(120).tokens) == 4 and len(long.result(120).tokens) == 300
    assert ended == ["short", "long"]


def test_the_memory_takes_in_what_joins_and_answers_what_it_knows(model: Any) -> None:
    memory = Remembered()
    cached = CachedModel(model, memory)
    known = cached.generate([ask("known", 3)])[0]
    waves = [[ask("known", 3), ask("new", 4)], [ask("new", 4), ask("other", 5)], []]
    done: dict[int, Completion] = {}
    answers = cached.generate(
        [ask("first", 6)], on_done=lambda i, c: done.__setitem__(i, c), more=lambda: waves.pop(0) if waves else []
    )
    assert [len(a.tokens) <= n for a, n in zip(answers, (6, 3, 4, 4, 5), strict=True)] == [True] * 5
    assert answers[1].tokens == known.tokens and answers[2] is answers[3]
    assert done == dict(enumerate(answers)) and len(memory) == 4
    alone = [model.generate([r])[0].tokens for r in (ask("first", 6), ask("other", 5))]
    assert [answers[0].tokens, answers[4].tokens] == alone
