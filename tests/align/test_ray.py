"""Samples drawn by Ray workers are those that one process draws, with the policy as it is, whoever is lost on the way."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fivefold.align._adapter import Lora, causal_lm, trainable, trainable_copy
from fivefold.align._loop import TrainConfig
from fivefold.align._ray import RayConfig, RaySampler, Recipe, Worker, _files
from fivefold.align._rollouts import Sampler
from fivefold.align.rewards import each
from fivefold.align.rl import RLConfig, reinforce
from fivefold.errors import MissingExtraError, TrainingError, UsageError
from fivefold.types import user_case

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'fivefold[ray]'")

CASES = [user_case(f"c{i}", text) for i, text in enumerate(["fox", "dog jumps", "What is Paris?", "quartz", "a b"])]
HOW: dict[str, Any] = {"samples": 3, "limit": 6, "temperature": 1.0, "seed": 0}
TWO = RayConfig(workers=2, start_seconds=240)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        yield
        ray.shutdown()


def move(trained: Any) -> None:
    with torch.no_grad():
        for p in trainable(trained).values():
            p.add_(torch.randn_like(p) * 0.1)


@pytest.fixture(scope="module")
def many(model: Any) -> Iterator[tuple[Any, RaySampler]]:
    """A policy, and two workers that draw from it."""
    torch.manual_seed(0)
    trained = trainable_copy(model.module, Lora(r=4, alpha=12))
    move(trained)
    sampler = RaySampler(model, trained, TWO, **HOW)
    yield trained, sampler
    sampler.close()


def test_workers_draw_what_one_process_draws_and_follow_the_policy(model: Any, many: tuple[Any, RaySampler]) -> None:
    trained, sampler = many
    alone = Sampler(model, causal_lm(trained), **HOW)
    first = sampler.draw(CASES, 0)
    assert first == alone.draw(CASES, 0)
    move(trained)
    assert sampler.draw(CASES, 0) == first
    sampler.refresh(1)
    assert sampler.draw(CASES, 1) == alone.draw(CASES, 1) and sampler.draw(CASES, 0) != first


def test_the_prompts_of_a_lost_worker_are_drawn_by_the_others(
    many: tuple[Any, RaySampler], caplog: pytest.LogCaptureFixture
) -> None:
    _, sampler = many
    whole = sampler.draw(CASES, 0)
    ray.kill(sampler.workers[0])
    assert sampler.draw(CASES, 0) == whole and len(sampler.workers) == 1
    assert "a Ray worker was lost, the others draw its 2 prompts" in caplog.text
    sampler.weights = ray.put({})
    sampler.version += 1
    with pytest.raises(TrainingError, match="could not draw its samples"):
        sampler.draw(CASES, 0)
    ray.kill(sampler.workers[0])
    for _ in range(2):
        with pytest.raises(TrainingError, match="no Ray worker is left"):
            sampler.draw(CASES, 0)


def test_a_run_with_workers_learns_what_it_learns_without(model: Any, tmp_path: Path) -> None:
    train = TrainConfig(loss="grpo", adapter=Lora(r=4), lr=1e-2, batch_items=2, schedule="constant", warmup=0.0)
    settings: dict[str, Any] = {"train": train, "rounds": 2, "prompts": 2, "samples": 4, "max_new_tokens": 6}
    reward, before = each(lambda s: float(sum(t % 2 for t in s.tokens))), alive()
    alone, many = (
        reinforce(
            model, CASES, reward, RLConfig(**settings, ray=RayConfig(workers=n)), tmp_path / str(n), reward_name="odd"
        )
        for n in (0, 2)
    )
    for one, other in zip(alone.history, many.history, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in other.items() if k != "seconds"}, rel=1e-4, abs=1e-6
        )
    assert alone.history[0]["reward"] != alone.history[1]["reward"]
    assert alive() == before


def alive() -> int:
    return sum(actor["State"] != "DEAD" for actor in ray._private.state.actors().values())


def test_a_worker_with_another_model_refuses_to_draw(model: Any) -> None:
    files = _files(trainable_copy(model.module, Lora(r=4)))
    worker = Worker(Recipe(model.name, {}, "0" * 64, files, HOW))
    with pytest.raises(UsageError, match="another model than the trainer's"):
        worker.ready()


def test_a_cluster_that_is_too_small_is_named(model: Any) -> None:
    trained = trainable_copy(model.module, Lora(r=4))
    with pytest.raises(UsageError, match=r"(?s)1 of 1 Ray workers were not ready after 2.*64 cores.* cores"):
        RaySampler(model, trained, RayConfig(workers=1, cpus=64, start_seconds=2), **HOW)


def test_without_ray_the_extra_is_named(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"fivefold\[ray\]"):
        RaySampler(model, trainable_copy(model.module, Lora(r=4)), TWO, **HOW)


def test_samples_come_from_one_place() -> None:
    with pytest.raises(UsageError, match="vLLM server or from Ray"):
        RLConfig(vllm="http://localhost:8000", ray=TWO)
