"""What a run leaves and what is seen of it: averaged weights, early stop, schedules, sinks, the estimate."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from _items import Stop, breaking_at, random_items, small
from fivefold.align import sinks
from fivefold.align._adapter import Lora, trainable_copy
from fivefold.align._leaving import Leaving
from fivefold.align._loop import TrainConfig, learning_rate
from fivefold.align._masters import Masters
from fivefold.align._processes import ALONE
from fivefold.align.losses import sft
from fivefold.align.train import estimate, held_out_loss, train
from fivefold.errors import MissingExtraError, UnknownNameError, UsageError


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


# Averages


def test_an_average_is_the_formulas() -> None:
    w = torch.nn.Parameter(torch.tensor([0.0, 0.0]))
    leaving = Leaving(Masters.of({"w": w}), TrainConfig(ema=0.5))
    expected = None
    for step, value in enumerate([[1.0, -1.0], [2.0, 5.0], [4.0, 0.5], [8.0, 3.0]]):
        with torch.no_grad():
            w.copy_(torch.tensor(value))
        leaving.after(step, 4)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = (
            value if expected is None else [decay * a + (1 - decay) * v for a, v in zip(expected, value, strict=True)]
        )
    with leaving.shown():
        assert w.tolist() == pytest.approx(expected)
    assert w.tolist() == [8.0, 3.0], "shown for a while only"
    assert leaving.settle(4) == {"kind": "average", "step": 4, "averaged": True, "held_out": None}
    assert w.tolist() == pytest.approx(expected)


def test_the_average_is_left_and_lies_within_the_path(model: Any, tmp_path: Path) -> None:
    items = random_items(9, 1)
    config = small(adapter=Lora(r=4), epochs=4)
    last = train(model, items, config, tmp_path / "last")
    mean = train(model, items, replace(config, ema=0.9), tmp_path / "mean")
    assert mean.losses == last.losses, "the average does not steer"
    a, b = weights(tmp_path / "last"), weights(tmp_path / "mean")
    up = [k for k in a if "lora_B" in k]  # these start at zero
    assert sum(float(b[k].norm()) for k in up) < sum(float(a[k].norm()) for k in up)
    assert any(not torch.equal(a[k], b[k]) for k in a)
    assert json.loads(mean.record.read_text())["weights"]["kind"] == "average"


@pytest.mark.parametrize("at", [2, 5])
def test_a_run_with_an_average_and_measurements_resumes_exactly(model: Any, tmp_path: Path, at: int) -> None:
    items, held_out = random_items(9, 2), random_items(4, 2, seed=5)
    config = small(loss="rpo", ema=0.8, check_steps=2, checkpoint_steps=1, epochs=3)
    whole = train(model, items, config, tmp_path / "whole", held_out=held_out)
    with pytest.raises(Stop):
        train(model, items, config, tmp_path / "broken", held_out=held_out, on_step=breaking_at(at))
    again = train(model, items, config, tmp_path / "broken", held_out=held_out)
    records = [json.loads(r.record.read_text()) for r in (whole, again)]
    assert records[0]["history"] == records[1]["history"] and records[0]["weights"] == records[1]["weights"]
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(a[k], b[k]) for k in a)


# Early stop


def test_training_stops_when_the_held_out_loss_has_long_not_fallen(model: Any, tmp_path: Path) -> None:
    """Few items, many epochs: it learns them by heart, and the loss on others rises."""
    items, held_out = random_items(4, 1), random_items(12, 1, seed=9)
    config = small(adapter=Lora(r=8), lr=3e-2, epochs=60, batch_items=4, schedule="constant", check_steps=2, patience=3)
    result = train(model, items, config, tmp_path, held_out=held_out)
    record = json.loads(result.record.read_text())
    measured = {i + 1: h["held_out"] for i, h in enumerate(record["history"]) if "held_out" in h}
    assert len(result.losses) < 60 and list(measured) == list(range(2, len(result.losses) + 1, 2))
    best = min(measured, key=lambda step: measured[step])
    assert record["weights"] == {"kind": "best", "step": best, "averaged": False, "held_out": measured[best]}
    assert len(result.losses) == best + 2 * 3
    trained = trainable_copy(model.module, None, result.path)
    again = held_out_loss(trained, held_out, None, config, sft, sft.Config(), None, ALONE)
    assert again == pytest.approx(measured[best], rel=1e-4), "the best weights are the ones that are left"


@pytest.mark.parametrize(
    ("changes", "held_out", "says"),
    [
        ({"check_steps": 2}, 0, "measuring on held-out data"),
        ({}, 3, "measuring on held-out data"),
        ({"patience": 2}, 0, "early stop needs measurements"),
        ({"ema": 1.0}, 0, "ema has a value that makes no sense"),
    ],
)
def test_settings_without_effect_are_refused(
    model: Any, tmp_path: Path, changes: dict[str, Any], held_out: int, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        train(model, random_items(3, 1), small(**changes), tmp_path, held_out=random_items(held_out, 1))


# Schedules


def test_schedules() -> None:
    def rates(**changes: Any) -> list[float]:
        return [learning_rate(s, 20, small(lr=1.0, warmup=0.1, **changes)) for s in range(20)]

    for name in ("cosine", "linear", "constant", "wsd", "inverse_sqrt"):
        assert rates(schedule=name)[:2] == [0.5, 1.0]
        assert max(rates(schedule=name)) == 1.0
    wsd = rates(schedule="wsd", decay=0.25)
    assert wsd[2:15] == [1.0] * 13 and wsd[15:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    root = rates(schedule="inverse_sqrt")
    assert root[7] == pytest.approx(0.5) and root[17] == pytest.approx(1 / 3)
    floor = rates(schedule="cosine", lr_end=0.1)
    plain = rates(schedule="cosine")
    assert floor == pytest.approx([*plain[:2], *(0.1 + 0.9 * r for r in plain[2:])])


# Sinks


class Rows:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append((step, dict(values)))

    def close(self) -> None:
        self.closed += 1


def test_a_sink_of_ones_own_gets_every_step_and_is_closed(model: Any, tmp_path: Path) -> None:
    mine = Rows()
    result = train(model, random_items(6, 2), small(loss="dpo"), tmp_path / "a", sinks=[mine])
    assert [s for s, _ in mine.rows] == list(range(1, len(result.losses) + 1)) and mine.closed == 1
    assert [v["loss"] for _, v in mine.rows] == list(result.losses)
    assert {"grad_norm", "lr", "margin", "tokens", "seconds"} <= set(mine.rows[0][1])
    with pytest.raises(Stop):
        train(model, random_items(6, 2), small(loss="dpo"), tmp_path / "b", sinks=[mine], on_step=breaking_at(1))
    assert mine.closed == 2, "closed when a run breaks off, too"


def test_tensorboard_reads_back_what_was_written(model: Any, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = small(checkpoint_steps=2, epochs=3, log_to=("tensorboard", "lines"))
    items = random_items(6, 1)
    with pytest.raises(Stop):
        train(model, items, config, tmp_path, on_step=breaking_at(3))
    result = train(model, items, config, tmp_path)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    assert {"loss", "lr", "grad_norm"} <= set(events.Tags()["scalars"])
    written = events.Scalars("loss")
    assert [e.step for e in written] == list(range(1, 7)), "a step that was done twice stands there once"
    assert [e.value for e in written] == pytest.approx(list(result.losses), rel=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == list(range(1, 7))
    assert [row["loss"] for row in lines] == list(result.losses)


def test_a_sink_changes_nothing_about_the_run(model: Any, tmp_path: Path) -> None:
    items = random_items(4, 1)
    first = train(model, items, small(log_to=("lines",)), tmp_path)
    assert train(model, items, small(), tmp_path).key == first.key, "where numbers go is no part of the run's identity"


@pytest.mark.parametrize(
    ("name", "module"),
    [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow.tracking")],
)
def test_a_missing_package_is_named_before_training(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"fivefold\[{name}\]"):
        train(model, random_items(3, 1), small(log_to=(name,)), tmp_path)
    assert not (tmp_path / "training.json").exists()


def test_an_unknown_sink_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="tensorboard"):
        train(model, random_items(3, 1), small(log_to=("tensorbord",)), tmp_path)


def test_wandb_and_mlflow_get_rows_in_their_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against stand-ins that note the calls: neither package is installed here, and neither service is asked."""
    calls: list[Any] = []

    class Run:
        info = type("info", (), {"run_id": "r1"})

        def log(self, values: dict[str, float], step: int) -> None:
            calls.append(("log", step, values))

        def finish(self) -> None:
            calls.append("finish")

    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return "e1"

        def create_run(self, experiment: str, tags: dict[str, str]) -> Run:
            calls.append(("run", experiment, tags["fivefold.run"]))
            return Run()

        def log_metric(self, run: str, name: str, value: float, step: int) -> None:
            calls.append(("metric", run, name, value, step))

        def set_terminated(self, run: str) -> None:
            calls.append(("end", run))

    fake = type(sys)("wandb")
    fake.init = lambda **given: calls.append(("init", given["id"], given["resume"])) or Run()  # type: ignore[attr-defined]
    tracking = type(sys)("mlflow.tracking")
    tracking.MlflowClient = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", tracking)
    with sinks.opened(("wandb", "mlflow"), tmp_path, "key", 0) as found:
        for sink in found:
            sink.write(1, {"loss": 0.5})
    assert calls == [
        ("init", "key", "allow"),
        ("run", "e1", "key"),
        ("log", 1, {"loss": 0.5}),
        ("metric", "r1", "loss", 0.5, 1),
        "finish",
        ("end", "r1"),
    ]


# The estimate


def test_what_a_run_will_take_is_said_before_it_starts(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = random_items(4, 1)
    monkeypatch.setattr(logging.getLogger("fivefold.align"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="fivefold.align"), pytest.raises(Stop):
        train(model, items, small(checkpoint_seconds=0.0), tmp_path, on_step=breaking_at(1))
    said = sorted(set(caplog.messages))
    assert len(said) == 1 and said[0].startswith("training with the sft loss: 4 steps over ")
    assert str(estimate(model.module, items, small())) in said[0] and "MiB of memory" in said[0]
    monkeypatch.setattr("fivefold.align.train.free_bytes", lambda device: 1000)
    with caplog.at_level(logging.WARNING, logger="fivefold.align"):
        train(model, items, small(), tmp_path / "other")
    assert "are free: lower row_tokens" in caplog.messages[-1]


def test_the_records_of_all_stages_go_to_the_evidence_store(tmp_path: Path) -> None:
    from fivefold.thread.opened import training_records

    for name in (
        "sft/training.json",
        "reward/reward.json",
        "rl/reinforcement.json",
        "rl/other.json",
        "rl/adapter/x.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert list(training_records(tmp_path)) == ["reward-reward.json", "rl-reinforcement.json", "sft-training.json"]
