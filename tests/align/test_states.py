"""Training on activations and on distributions: what is to move moves, what is to stay stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from _items import random_items
from _tiny import tiny_folder
from fivefold.align._adapter import Lora, packed_copy
from fivefold.align._loop import TrainConfig
from fivefold.align._pack import pack
from fivefold.align._policy import answer_states
from fivefold.align.distil import distil
from fivefold.align.losses import rmu
from fivefold.align.states import StatesConfig, streams, train_states
from fivefold.errors import UsageError
from fivefold.runtime.load import load


def settings(loss: str, **changes: Any) -> TrainConfig:
    given: dict[str, Any] = {"loss": loss, "adapter": Lora(r=8), "lr": 1e-2, "batch_items": 4, "epochs": 12, **changes}
    return TrainConfig(**given)


def moved_by(model: Any, path: Path, items: Any, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Streams of the items before and after, [T, D]."""
    patched = model.with_adapter(str(path), name="patched")
    row = pack(items)
    with torch.no_grad():
        return tuple(streams(packed_copy(m.module), row, [layer])[0] for m in (model, patched))  # type: ignore[return-value]


def test_circuit_breaking_turns_what_it_should(model: Any, tmp_path: Path) -> None:
    harmful, benign = random_items(8, 1, seed=1), random_items(8, 1, seed=2)
    found = train_states(
        model, harmful, benign, StatesConfig(train=settings("circuit_breaker"), layers=(2, 3)), tmp_path
    )
    before, after = moved_by(model, found.path, harmful, 3)
    own = slice(5, None)  # the first five tokens open both kinds of item
    turned = torch.cosine_similarity(before[own], after[own], dim=-1).mean()
    before, after = moved_by(model, found.path, benign, 3)
    stayed = torch.cosine_similarity(before[own], after[own], dim=-1).mean()
    assert turned < 0.5 and stayed > turned + 0.2, (turned, stayed)


def test_unlearning_pushes_to_the_direction(model: Any, tmp_path: Path) -> None:
    forget, retain = random_items(8, 1, seed=1), random_items(8, 1, seed=2)
    config = settings("rmu", loss_options={"steering": 20.0, "alpha": 0.1})
    found = train_states(model, forget, retain, StatesConfig(train=config, layers=(2,)), tmp_path)
    u = rmu.direction(model.d_model, 0).float()
    before, after = moved_by(model, found.path, forget, 2)
    assert (after @ u).mean() > (before @ u).mean() + 2.0
    assert train_states(model, forget, retain, StatesConfig(train=config, layers=(2,)), tmp_path) == found


def test_what_does_not_fit_is_refused(model: Any, tmp_path: Path) -> None:
    items = random_items(2, 1)
    with pytest.raises(UsageError, match="does not learn from activations"):
        train_states(model, items, items, StatesConfig(train=settings("dpo"), layers=(1,)), tmp_path)
    with pytest.raises(UsageError, match="no such decoder layer"):
        train_states(model, items, items, StatesConfig(train=settings("rmu"), layers=(9,)), tmp_path)
    with pytest.raises(UsageError, match="one loss"):
        distil(model, model, items, settings("sft"), tmp_path)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_a_student_comes_nearer_to_its_teacher(model: Any, tmp_path: Path, divergence: str) -> None:
    teacher = load(str(tiny_folder(tmp_path / "teacher", seed=7)))
    config = settings("distillation", loss_options={"divergence": divergence}, row_tokens=60)
    found = distil(model, teacher, random_items(8, 1), config, tmp_path / "out")
    assert sum(found.losses[-2:]) < 0.8 * sum(found.losses[:2])


def test_nothing_is_to_learn_from_oneself(model: Any, tmp_path: Path) -> None:
    config = settings("distillation", epochs=1, lr=0.0)
    found = distil(model, model, random_items(4, 1), config, tmp_path)
    assert found.losses[0] == pytest.approx(0.0, abs=1e-5)


def test_streams_are_those_of_single_sequences(model: Any) -> None:
    item = random_items(1, 1)[0]
    ids = torch.tensor([item.prompt + item.answers[0][:-1]])
    with torch.no_grad():
        hidden = model.module(ids, output_hidden_states=True).hidden_states
        got = streams(packed_copy(model.module), pack([item]), [0, 2])
        assert answer_states(packed_copy(model.module), pack([item])).shape == (len(item.answers[0]), model.d_model)
    torch.testing.assert_close(got, torch.stack([hidden[1][0], hidden[3][0]]), atol=1e-4, rtol=1e-4)
