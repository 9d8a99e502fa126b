"""The trainer: it learns, it resumes exactly, it survives being killed, it says when it diverges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from _items import random_items, small
from fivefold.align import _checkpoint
from fivefold.align._adapter import (
    Lora,
    adapter_parameters,
    causal_lm,
    packed_copy,
    trainable,
    trainable_copy,
)
from fivefold.align._pack import mismatched, pack
from fivefold.align._policy import answer_logps
from fivefold.align.losses._base import FIXED_DATA
from fivefold.align.losses._base import load as load_loss
from fivefold.align.train import Progress, batches_of, estimate, learning_rate, n_answers, score, train
from fivefold.errors import DataError, TrainingError, UnknownNameError, UsageError
from fivefold.registry import registry
from fivefold.runtime.load import load

LOSSES = {n: n_answers(load_loss(n)) for n in registry("loss").names() if load_loss(n).KIND in FIXED_DATA}


class Stop(Exception):
    """Raised by a watcher to break a run off."""


def breaking_at(step: int) -> Any:
    def watch(progress: Progress) -> None:
        if progress.step == step:
            raise Stop

    return watch


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_falls(model: Any, tmp_path: Path, loss: str) -> None:
    items = random_items(9, 1) if loss == "kto" else random_items(9, LOSSES[loss])
    items = mismatched(items) if loss == "kto" else items
    result = train(model, items, small(loss=loss, epochs=8, lr=2e-2), tmp_path)
    assert len(result.losses) == 24
    assert sum(result.losses[-3:]) < 0.95 * sum(result.losses[:3])


def test_sft_makes_the_answers_likelier_in_the_adapted_model(model: Any, tmp_path: Path) -> None:
    items = random_items(6, 1)
    before = sum(float(a.sum()) for of_item in score(packed_copy(model.module), items, 64) for a in of_item)
    result = train(model, items, small(epochs=10, lr=2e-2), tmp_path)
    patched = model.with_adapter(str(result.path), name="patched")
    after = sum(float(a.sum()) for of_item in score(packed_copy(patched.module), items, 64) for a in of_item)
    assert after > before + 10
    assert patched.fingerprint != model.fingerprint


@pytest.mark.parametrize(("loss", "at", "first"), [("sft", 1, 0), ("sft", 4, 2), ("rpo", 4, 0)])
def test_a_run_that_was_broken_off_gives_the_losses_of_one_that_was_not(
    model: Any, tmp_path: Path, loss: str, at: int, first: int
) -> None:
    items = random_items(9, LOSSES[loss])
    config = small(loss=loss, checkpoint_steps=1, adapter=Lora(r=4, dropout=0.1, from_layer=first))
    whole = train(model, items, config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(model, items, config, tmp_path / "broken", on_step=breaking_at(at))
    steps: list[int] = []
    resumed = train(model, items, config, tmp_path / "broken", on_step=lambda p: steps.append(p.step))
    assert steps == list(range(at + 1, 7))
    assert resumed.losses == whole.losses and resumed.tokens == whole.tokens
    weights = [(tmp_path / d / "adapter" / "adapter_model.safetensors").read_bytes() for d in ("whole", "broken")]
    assert weights[0] == weights[1]


RUN = """
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
sys.path[:0] = {paths!r}
from _items import random_items, small
from fivefold.align.train import train
from fivefold.runtime.load import load
import time
train(load({folder!r}), random_items(9, 2), small(loss="rpo", epochs=5, checkpoint_steps=1), Path({out!r}),
      on_step=lambda p: (print(p.step, flush=True), time.sleep(0.2)))
"""


def test_kill_9_and_run_again_continues(folder: Path, model: Any, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    paths = [str(root / "tests"), str(root / "src")]
    code = RUN.format(paths=paths, folder=str(folder), out=str(tmp_path / "killed"))
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    while (line := process.stdout.readline().strip()) != "3":
        assert line, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    config = small(loss="rpo", epochs=5, checkpoint_steps=1)
    steps: list[int] = []
    resumed = train(model, random_items(9, 2), config, tmp_path / "killed", on_step=lambda p: steps.append(p.step))
    whole = train(model, random_items(9, 2), config, tmp_path / "whole")
    assert 3 <= steps[0] <= 5 and steps[-1] == 15
    assert resumed.losses == whole.losses


def test_a_finished_run_is_not_run_again(model: Any, tmp_path: Path) -> None:
    items, config = random_items(4, 1), small()
    first = train(model, items, config, tmp_path)
    began = time.monotonic()
    again = train(model, items, config, tmp_path, on_step=breaking_at(1))
    assert again == first and time.monotonic() - began < 1
    assert not (tmp_path / _checkpoint.FILE).exists()


def test_another_run_in_the_same_folder_is_refused(model: Any, tmp_path: Path) -> None:
    train(model, random_items(4, 1), small(), tmp_path)
    with pytest.raises(TrainingError, match="another model, data or configuration"):
        train(model, random_items(4, 1), small(lr=1e-3), tmp_path)


def test_a_loss_that_is_no_number_is_an_error(model: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="diverged at step") as caught:
        train(model, random_items(6, 1), small(lr=1e30, epochs=9, warmup=0.0), tmp_path)
    assert "lower lr" in str(caught.value)
    assert not (tmp_path / "training.json").exists()


def test_the_record_says_what_was_done(model: Any, tmp_path: Path) -> None:
    items = random_items(6, 1)
    result = train(model, items, small(), tmp_path)
    record = json.loads(result.record.read_text())
    assert record["model"] == model.fingerprint and record["config"]["loss"] == "sft"
    assert record["data"] == {"digest": result.data_digest, "items": 6, "groups": {"even": 3, "odd": 3}}
    assert [h["loss"] for h in record["history"]] == list(result.losses)
    assert record["tokens"] == result.tokens > 0


def test_going_on_from_an_adapter_starts_where_it_ended(model: Any, tmp_path: Path) -> None:
    items = random_items(6, 1)
    config = small(adapter=small().adapter, epochs=6, lr=2e-2)
    first = train(model, items, config, tmp_path / "first")
    second = train(model, items, small(lr=0.0, epochs=1), tmp_path / "second", start=first.path)
    patched = model.with_adapter(str(first.path), name="patched")
    logps = [a for of_item in score(packed_copy(patched.module), items, 64) for a in of_item]
    expected = -sum(float(a.sum()) for a in logps) / sum(len(a) for a in logps)
    weights = [sum(len(items[i].answers[0]) for i in batch) for batch in batches_of(items, small(epochs=1))]
    got = sum(loss * w for loss, w in zip(second.losses, weights, strict=True)) / sum(weights)
    assert got == pytest.approx(expected, abs=0.15)  # dropout is on while training


def test_a_reference_is_the_base_or_the_start(model: Any, tmp_path: Path) -> None:
    items = random_items(6, 2)
    sft = train(model, [type(i)(prompt=i.prompt, answers=i.answers[:1]) for i in items], small(lr=2e-2), tmp_path / "s")
    plain = {"adapter": Lora(r=4), "epochs": 1, "lr": 0.0, "loss": "dpo"}
    at_start = train(model, items, small(**plain, reference="start"), tmp_path / "a", start=sft.path)
    at_base = train(model, items, small(**plain, reference="base"), tmp_path / "b", start=sft.path)
    assert at_base.losses[0] != pytest.approx(0.6931, abs=0.02)
    assert at_start.losses[0] == pytest.approx(0.6931, abs=0.1)
    with pytest.raises(UsageError, match="cannot be trained from the adapter"):
        train(model, items, small(adapter=None), tmp_path / "c", start=sft.path)


def test_reusing_frozen_layers_changes_no_loss(model: Any, tmp_path: Path) -> None:
    items = random_items(9, 2)
    plain = {"adapter": Lora(r=4, from_layer=2), "loss": "rpo", "row_tokens": 64}
    kept = train(model, items, small(**plain), tmp_path / "kept")
    again = train(model, items, small(**plain, reuse_frozen=False), tmp_path / "again")
    assert kept.losses == pytest.approx(again.losses, rel=1e-4)


def test_full_fine_tuning_writes_a_model(model: Any, tmp_path: Path) -> None:
    result = train(model, random_items(6, 1), small(adapter=None, lr=1e-3, epochs=4), tmp_path)
    assert result.losses[-1] < result.losses[0]
    made = load(str(result.path))
    assert made.encode("a b c d") == model.encode("a b c d") and made.fingerprint != model.fingerprint


def test_a_loss_for_other_data_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not learn from given answers"):
        train(model, random_items(3, 2), small(loss="grpo"), tmp_path)
    with pytest.raises(UsageError, match="whole distributions"):
        train(model, random_items(3, 2), small(loss="tdpo", adapter=None), tmp_path)


def test_data_that_does_not_fit_the_loss_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        train(model, [], small(), tmp_path)
    with pytest.raises(DataError, match="does not fit the dpo loss"):
        train(model, random_items(3, 1), small(loss="dpo"), tmp_path)
    with pytest.raises(UnknownNameError, match="beta"):
        train(model, random_items(3, 2), small(loss="dpo", loss_options={"betta": 0.1}), tmp_path)


@pytest.mark.parametrize("first", [0, 2])
def test_the_estimate_counts_what_will_be_trained(model: Any, tmp_path: Path, first: int) -> None:
    items, config = random_items(9, 2), small(loss="dpo", adapter=Lora(r=4, from_layer=first))
    expected = estimate(model.module, items, config)
    assert adapter_parameters(model.module, Lora(r=4, from_layer=first)) == sum(
        p.numel() for p in trainable(trainable_copy(model.module, Lora(r=4, from_layer=first))).values()
    )
    result = train(model, items, config, tmp_path)
    assert expected.steps == len(result.losses)
    assert 0.5 * expected.tokens < result.tokens <= expected.tokens
    assert expected.bytes > expected.weights > 0


def test_the_estimate_of_activations_is_of_the_right_size(model: Any) -> None:
    items, config = random_items(6, 2), small(adapter=Lora(r=4), row_tokens=10**6)
    module = causal_lm(trainable_copy(model.module, Lora(r=4)))
    own = {p.data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() not in own:
            kept[x.data_ptr()] = x.numel() * x.element_size()
        return x

    row = pack(items)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        answer_logps(module, row)
    measured = sum(kept.values()) / len(row.tokens)
    one_row = estimate(model.module, items, config)
    assert 0.5 < one_row.activations / 10**6 / measured < 2


def test_every_item_is_seen_once_an_epoch_in_another_order() -> None:
    batches = batches_of(random_items(10, 1), small(epochs=2, batch_items=4))
    assert [len(b) for b in batches] == [4, 4, 2, 4, 4, 2]
    epochs = [sorted(i for batch in part for i in batch) for part in (batches[:3], batches[3:])]
    assert epochs == [list(range(10))] * 2
    assert batches[:3] != batches[3:]


def test_twins_are_trained_on_in_one_step() -> None:
    items = [replace(item, twin=f"b{i % 6}") for i, item in enumerate(random_items(12, 1))]
    for batch in batches_of(items, small(epochs=2, batch_items=4)):
        assert sorted(Counter(items[i].twin for i in batch).values()) == [2, 2]


def test_the_learning_rate_rises_and_falls() -> None:
    config = small(lr=1.0, warmup=0.2, schedule="cosine")
    rates = [learning_rate(s, 10, config) for s in range(10)]
    assert rates[:2] == [0.5, 1.0] and rates[2] == 1.0 and rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.1
    assert learning_rate(9, 10, small(lr=1.0, schedule="constant")) == 1.0
