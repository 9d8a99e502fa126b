"""Gradient checkpointing: the same losses, gradients and weights, from far fewer saved tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from _items import random_items, small
from fivefold.align._adapter import Lora, causal_lm, trainable, trainable_copy
from fivefold.align._loop import TrainConfig
from fivefold.align._pack import pack
from fivefold.align._policy import answer_logps
from fivefold.align._scalar import Scalar
from fivefold.align.data.steps import Steps
from fivefold.align.distil import distil
from fivefold.align.process import ProcessConfig, train_steps
from fivefold.align.reward import Pairs, RewardConfig, train_reward
from fivefold.align.rewards import each
from fivefold.align.rl import RLConfig, reinforce
from fivefold.align.states import StatesConfig, train_states
from fivefold.align.train import estimate, train
from fivefold.runtime._structure import decoder_layers
from fivefold.types import user_case

ADAPTERS = {
    "lora": Lora(r=4),
    "upper layers": Lora(r=4, from_layer=2),
    "dropout": Lora(r=4, dropout=0.2),
    "dora": Lora(r=4, dora=True),
    "full": None,
}


def gradient(model: Any, adapter: Lora | None, checkpointing: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of one packed row, with adapters that are not at their start."""
    torch.manual_seed(3)
    trained = trainable_copy(model.module, adapter, checkpointing=checkpointing)
    params = trainable(trained)
    with torch.no_grad():
        for name, p in sorted(params.items()):
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    trained.train()
    loss = -answer_logps(causal_lm(trained), pack(random_items(4, 2))).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {n: p.grad for n, p in params.items() if p.grad is not None}


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_loss_and_gradient_are_those_without_it(model: Any, adapter: Lora | None) -> None:
    (kept, expected), (again, found) = (gradient(model, adapter, on) for on in (False, True))
    assert again == pytest.approx(kept, rel=1e-6)
    assert set(found) == set(expected) and len(found) > 10
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-7, msg=name)
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3


def saved_bytes(module: Any, work: Callable[[], Any]) -> int:
    """Bytes that autograd keeps of `work`, each tensor once, without the weights."""
    own, kept = {p.data_ptr() for p in module.parameters()}, dict[int, int]()
    held = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            held.append(x)  # a freed tensor's address would be given to another
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        work()
    return sum(kept.values())


@pytest.mark.parametrize("adapter", [Lora(r=4), None], ids=["lora", "full"])
def test_a_layer_keeps_its_input_alone(model: Any, adapter: Lora | None) -> None:
    items = random_items(6, 2)
    row, config = pack(items), small(adapter=adapter, row_tokens=10**6)
    kept, expected = dict[bool, float](), dict[bool, float]()
    for on in (False, True):
        module = causal_lm(trainable_copy(model.module, adapter, checkpointing=on))
        logps: list[torch.Tensor] = []
        kept[on] = saved_bytes(module, lambda m=module, to=logps: to.append(answer_logps(m, row))) / len(row.tokens)
        expected[on] = estimate(model.module, items, replace(config, gradient_checkpointing=on)).activations / 10**6
    assert kept[True] < 0.35 * kept[False], kept
    inside = kept[False] / len(decoder_layers(model.module))  # what the estimate counts of the layer at work
    assert expected[True] < expected[False]
    assert 0.5 < expected[True] / (kept[True] + inside) < 2


def test_a_plan_keeps_no_keys_of_the_layers_that_are_done(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = pack(random_items(4, 2))
    plan = row.plan()
    monkeypatch.setattr(type(row), "plan", lambda self: plan)
    module = causal_lm(trainable_copy(model.module, Lora(r=4), checkpointing=True))
    loss = answer_logps(module, row).sum()
    assert row.shared and not plan.blocks[0].store.keys  # type: ignore[union-attr]
    loss.backward()  # type: ignore[no-untyped-call]
    assert not plan.blocks[0].store.keys  # type: ignore[union-attr]


def test_passes_without_a_gradient_are_left_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fivefold.align import _recompute

    monkeypatch.setattr(_recompute, "checkpoint", lambda *a, **k: pytest.fail("nothing asks for a gradient here"))
    module = causal_lm(trainable_copy(model.module, Lora(r=4), checkpointing=True))
    with torch.no_grad():
        answer_logps(module, pack(random_items(2, 1)))


@pytest.mark.parametrize(("loss", "answers"), [("sft", 1), ("dpo", 2), ("tdpo", 2)])
def test_training_ends_in_the_same_weights(model: Any, tmp_path: Path, loss: str, answers: int) -> None:
    items = random_items(9, answers)
    config = small(loss=loss, adapter=Lora(r=4, dropout=0.1, from_layer=1), epochs=2)
    plain = train(model, items, config, tmp_path / "plain")
    again = train(model, items, replace(config, gradient_checkpointing=True), tmp_path / "again")
    assert again.losses == pytest.approx(plain.losses, rel=1e-5) and again.key == plain.key
    compare(plain.path, again.path)


def test_a_run_that_was_broken_off_may_go_on_with_it(model: Any, tmp_path: Path) -> None:
    items, config = random_items(9, 1), small(checkpoint_steps=1)
    whole = train(model, items, config, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.step == 2:
            raise Stop

    with pytest.raises(Stop):
        train(model, items, config, tmp_path / "broken", on_step=stop)
    resumed = train(model, items, replace(config, gradient_checkpointing=True), tmp_path / "broken")
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-5)


def compare(first: Path, second: Path) -> None:
    one, two = (load_file(p / "adapter_model.safetensors") for p in (first, second))
    assert set(one) == set(two)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)


def settings(loss: str, **changes: Any) -> TrainConfig:
    return TrainConfig(
        loss=loss, adapter=Lora(r=2), lr=5e-3, batch_items=4, schedule="constant", warmup=0.0, row_tokens=200, **changes
    )


def rewarded(model: Any, out: Path, on: bool) -> Path:
    config = RewardConfig(train=settings("reward", gradient_checkpointing=on))
    return train_reward(model, Pairs(items=random_items(8, 2)), config, out).path


def stepped(model: Any, out: Path, on: bool) -> Path:
    config = ProcessConfig(train=settings("process_reward", gradient_checkpointing=on))
    answers = [
        Steps(item=i, ends=(len(i.answers[0]) - 1,), labels=(n % 2 == 0,)) for n, i in enumerate(random_items(8, 1))
    ]
    return train_steps(model, answers, config, out).path


def reinforced(model: Any, out: Path, on: bool) -> Path:
    config = RLConfig(
        train=settings("ppo", epochs=2, gradient_checkpointing=on), rounds=2, prompts=2, samples=3, max_new_tokens=4,
        critic=Lora(r=2),
    )  # fmt: skip
    cases = [user_case(f"c{i}", word) for i, word in enumerate(("fox", "dog"))]
    reward = each(lambda s: sum(t < 160 for t in s.tokens) / len(s.tokens))
    return reinforce(model, cases, reward, config, out, reward_name="low ids").path


def moved(model: Any, out: Path, on: bool) -> Path:
    config = StatesConfig(train=settings("circuit_breaker", gradient_checkpointing=on), layers=(1, 2))
    return train_states(model, random_items(6, 1), random_items(6, 1, seed=1), config, out).path


def distilled(model: Any, out: Path, on: bool) -> Path:
    return distil(model, model, random_items(6, 1), settings("distillation", gradient_checkpointing=on), out).path


@pytest.mark.parametrize("trainer", [rewarded, stepped, reinforced, moved, distilled])
def test_every_trainer_takes_it(model: Any, tmp_path: Path, trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fivefold.align import _recompute

    counted, inner = [], _recompute.checkpoint
    monkeypatch.setattr(_recompute, "checkpoint", lambda *a, **k: counted.append(1) or inner(*a, **k))
    plain = trainer(model, tmp_path / "plain", False)
    assert not counted
    again = trainer(model, tmp_path / "again", True)
    assert counted
    compare(plain, again)


def test_a_scalar_model_takes_it(model: Any) -> None:
    row, found = pack(random_items(3, 1)), []
    for on in (False, True):
        torch.manual_seed(0)
        scalar = Scalar.fresh(model.module, Lora(r=2), 2, checkpointing=on)
        scalar.values(row).sum().backward()  # type: ignore[no-untyped-call]
        found.append({n: p.grad for n, p in scalar.parameters().items()})
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-5, atol=1e-7)
