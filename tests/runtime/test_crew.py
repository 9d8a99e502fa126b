"""Work side by side on several threads: it runs at once, errors come out, and results are those of one thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from fivefold.runtime.crew import crew, side_by_side
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.types import Message

TIMEOUT = 30


@pytest.fixture(scope="module")
def wide(folder: Any) -> Any:
    """The tiny model with two workers and room for few sequences each."""
    return load(str(folder), workers=2, slots=12, pack_tokens=64)


def requests_of(n: int, **fields: Any) -> list[Request]:
    return [
        Request(messages=(Message(role="user", content=f"{i} quick brown foxes"),), max_new_tokens=4 + i % 7, **fields)
        for i in range(n)
    ]


def test_pieces_run_at_the_same_time_and_results_keep_their_order() -> None:
    both = threading.Barrier(2)

    def piece(i: int) -> int:
        both.wait(TIMEOUT)
        return i

    assert side_by_side([lambda i=i: piece(i) for i in range(8)], 2) == list(range(8))  # type: ignore[misc]


def test_one_worker_is_the_caller() -> None:
    assert side_by_side([threading.get_ident] * 2, 1) == [threading.get_ident()] * 2


def test_a_piece_has_one_thread_and_the_callers_gradient_mode() -> None:
    threads = torch.get_num_threads()
    with torch.no_grad():
        assert side_by_side([torch.is_grad_enabled] * 2, 2) == [False, False]
    assert side_by_side([torch.is_grad_enabled] * 2, 2) == [True, True]
    assert set(side_by_side([torch.get_num_threads] * 2, 2)) == {max(1, threads // 2)}
    assert torch.get_num_threads() == threads


def test_an_error_comes_out_and_ends_the_rest() -> None:
    done: list[int] = []

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), crew(2) as team:
        team.put(fail)
        for i in range(1000):
            team.put(lambda i=i: done.append(i))  # type: ignore[misc]
    assert len(done) < 1000
    assert side_by_side([lambda: 1] * 3, 2) == [1, 1, 1]


def test_a_piece_that_asks_for_a_crew_works_alone() -> None:
    def outer() -> list[int]:
        return side_by_side([threading.get_ident] * 2, 2)

    found = side_by_side([outer] * 2, 2)
    assert all(len(set(inner)) == 1 for inner in found)


def test_answers_are_those_of_one_worker(model: Any, wide: Any) -> None:
    asked = requests_of(60)
    told: list[int] = []
    answers = wide.generate(asked, on_done=lambda i, _: told.append(i))
    assert [a.tokens for a in answers] == [a.tokens for a in model.generate(asked)]
    assert sorted(told) == list(range(60))


def test_sampled_answers_too(model: Any, wide: Any) -> None:
    asked = requests_of(50, temperature=1.0, seed=3)
    assert [a.tokens for a in wide.generate(asked)] == [a.tokens for a in model.generate(asked)]


def test_answers_are_written_by_both_and_heard_whole(wide: Any) -> None:
    asked, heard = requests_of(50), [""] * 50

    def hear(i: int, piece: str) -> None:
        heard[i] += piece

    assert [a.text for a in wide.generate(asked, on_text=hear)] == heard


def test_what_arrives_later_is_dealt_out_and_all_of_it_answered(model: Any, wide: Any) -> None:
    first, later = requests_of(50), requests_of(70)[50:]
    coming = [[r] for r in later]
    answers = wide.generate(first, more=lambda: coming.pop() if coming else [])
    expected = {a.tokens for a in model.generate([*first, *later])}
    assert len(answers) == 70 and all(a.error is None for a in answers)
    assert {a.tokens for a in answers} == expected


def test_readings_are_those_of_one_worker(model: Any, wide: Any) -> None:
    contexts = [f"{i} boxes with five dozen liquor jugs " + "and so on " * (i % 5) for i in range(40)]
    for position in ("last", "mean", 2):
        ours, theirs = (m.activations(contexts, layers=[0, 1], position=position) for m in (wide, model))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    pairs = [(c, end) for c in contexts for end in (" yes", " no, not at all")]
    for ours, theirs in zip(wide.log_likelihood(pairs), model.log_likelihood(pairs), strict=True):
        assert ours.total == pytest.approx(theirs.total, abs=1e-4) and ours.greedy == theirs.greedy


def test_readings_use_both_workers(wide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, seen = type(wide.engine)._logits, set()

    def watched(self: Any, *args: Any) -> Any:
        seen.add(threading.current_thread().name)
        return logits(self, *args)

    monkeypatch.setattr(type(wide.engine), "_logits", watched)
    wide.activations([f"{i} quick brown foxes" for i in range(200)], layers=[1])
    assert len({name for name in seen if "crew" in name}) == 2
