"""Rows of a step on threads of their own: the same losses and weights, every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fivefold.align._lower as lower
import fivefold.align.train as training
from _items import random_items, small
from fivefold.align._adapter import Lora
from fivefold.align._pack import even_rows
from fivefold.align.train import TrainResult


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Any:
    def choose(n: int) -> None:
        for module in (training, lower):
            monkeypatch.setattr(module, "workers_of", lambda device: n)

    return choose


def weights_of(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(result.path / "adapter_model.safetensors")


@pytest.mark.parametrize(("loss", "answers"), [("sft", 1), ("rpo", 2), ("simpo", 2)])
@pytest.mark.parametrize("first", [0, 1])
def test_losses_and_weights_are_those_of_one_thread(
    model: Any, tmp_path: Path, workers: Any, loss: str, answers: int, first: int
) -> None:
    items = random_items(9, answers)
    config = small(loss=loss, adapter=Lora(r=4, from_layer=first))
    found = {}
    for name, n in (("one", 1), ("two", 2), ("again", 2)):
        workers(n)
        found[name] = training.train(model, items, config, tmp_path / name)
    assert found["two"].losses == pytest.approx(found["one"].losses, rel=1e-4)
    assert found["again"].losses == found["two"].losses
    one, two, again = (weights_of(found[name]) for name in ("one", "two", "again"))
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-4, rtol=1e-3)
        assert torch.equal(two[key], again[key])


def test_what_draws_at_random_or_is_trained_whole_stays_on_one_thread(
    model: Any, tmp_path: Path, workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    plain = training.apart_of

    def watched(*args: Any) -> Any:
        made.append(plain(*args))
        return made[-1]

    monkeypatch.setattr(training, "apart_of", watched)
    workers(2)
    items = random_items(9, 1)
    for name, adapter in (("dropout", Lora(r=4, dropout=0.1)), ("whole", None), ("apart", Lora(r=4))):
        made.clear()
        training.train(model, items, small(adapter=adapter), tmp_path / name)
        assert all((apart is not None) == (name == "apart") for apart in made) and made


@pytest.mark.parametrize(("workers", "limit"), [(2, 1000), (2, 60), (3, 60), (4, 1)])
def test_even_rows_hold_every_item_once_and_about_as_much(workers: int, limit: int) -> None:
    items = random_items(11, 1)
    rows = even_rows(items, limit, workers)
    assert sorted(i for row in rows for i in row) == list(range(11))
    assert len(rows) % workers == 0 or len(rows) == 11
    loads = [sum(items[i].n_tokens for i in row) for row in rows]
    assert max(loads) - min(loads) <= max(i.n_tokens for i in items)


def test_no_items_make_no_rows() -> None:
    assert even_rows([], 100, 2) == []
