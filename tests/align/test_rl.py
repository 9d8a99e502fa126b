"""Learning from rewards: every objective learns, a broken run goes on exactly, alarms stop or undo what they should."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fivefold.align import _checkpoint, rl
from fivefold.align._adapter import Lora, packed_copy
from fivefold.align._loop import TrainConfig
from fivefold.align._lower import _Skip, first_trained, lifted
from fivefold.align._pack import Item
from fivefold.align._rollouts import Sampler, collect, prompt_order
from fivefold.align.kl import KLControl, next_weight
from fivefold.align.losses._base import load as load_loss
from fivefold.align.monitor import MonitorConfig
from fivefold.align.rewards import Reward, Sample, each
from fivefold.align.rl import RLConfig, reinforce
from fivefold.align.train import score
from fivefold.errors import DataError, TrainingError, UsageError
from fivefold.registry import registry
from fivefold.runtime._structure import decoder_layers
from fivefold.runtime.crew import workers_of
from fivefold.runtime.load import load
from fivefold.types import user_case

OBJECTIVES = [n for n in registry("loss").names() if load_loss(n).KIND == "rollout"]
CASES = [user_case(f"c{i}", text) for i, text in enumerate(["fox", "dog jumps", "What is Paris?", "quartz"])]


def config(objective: str = "grpo", **changes: Any) -> RLConfig:
    options: dict[str, Any] = {"options": {}, "epochs": 1, "batch_items": 4, "lr": 6e-2, **changes.pop("train", {})}
    train = TrainConfig(
        loss=objective,
        loss_options=options["options"],
        adapter=Lora(r=4),
        lr=options["lr"],
        epochs=options["epochs"],
        batch_items=options["batch_items"],
        schedule="constant",
        warmup=0.0,
        row_tokens=200,
        checkpoint_steps=1,
    )
    settings: dict[str, Any] = {"rounds": 10, "prompts": 4, "samples": 10, "max_new_tokens": 3, "critic": Lora(r=4)}
    return RLConfig(train=train, **{**settings, **changes})


def low_ids(samples: Sequence[Sample]) -> list[float | None]:
    """The share of tokens from the first half of the vocabulary: easy to learn."""
    return [sum(t < 160 for t in s.tokens) / len(s.tokens) for s in samples]


def high_ids(samples: Sequence[Sample]) -> list[float | None]:
    return [1 - (v or 0.0) for v in low_ids(samples)]


def run(model: Any, out: Path, settings: RLConfig, reward: Reward = low_ids, **more: Any) -> rl.RLResult:
    return reinforce(model, CASES, reward, settings, out, reward_name="low ids", **more)


class Stop(Exception):
    pass


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns(model: Any, tmp_path: Path, objective: str) -> None:
    cost = {"cost": each(lambda s: 0.0)} if objective == "safe_rlhf" else {}
    options = {"gspo": {"clip_low": 0.2, "clip_high": 0.2}, "online_dpo": {"beta": 1.0}}.get(objective, {})
    rounds = 20 if objective == "online_dpo" else 10  # it learns from two answers of a group, the others from all
    # with 10 samples a group the last bits of a sum decide whether ten rounds suffice; with 24 they did for each of four seeds
    settings = config(objective, train={"options": options}, kl=KLControl(weight=0.001), rounds=rounds, samples=24)
    found = run(model, tmp_path, settings, **cost)
    rewards = [h["reward"] for h in found.history]
    assert len(rewards) == rounds and found.ended == "finished"
    assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.1, rewards
    assert abs(found.history[0]["kl"]) < 1e-3 < found.history[-1]["kl"]
    patched = model.with_adapter(str(found.path), name="rl")
    assert patched.fingerprint != model.fingerprint


@pytest.mark.parametrize(("objective", "changes"), [("grpo", {}), ("ppo", {"epochs": 2, "batch_items": 2})])
def test_a_run_that_was_broken_off_ends_in_the_same_weights(
    model: Any, tmp_path: Path, objective: str, changes: dict[str, Any]
) -> None:
    settings = config(objective, train=changes, rounds=4, kl=KLControl(weight=0.05, target=0.5, horizon=50))
    whole = run(model, tmp_path / "whole", settings)

    def stop(done: int, total: int, health: Any) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        run(model, tmp_path / "broken", settings, on_round=stop)
    rounds: list[int] = []
    again = run(model, tmp_path / "broken", settings, on_round=lambda done, total, h: rounds.append(done))
    assert rounds == [3, 4]
    timeless = [[{k: v for k, v in h.items() if k != "seconds"} for h in r.history] for r in (whole, again)]
    assert timeless[0] == timeless[1]
    files = [r.path / "adapter_model.safetensors" for r in (whole, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "broken" / _checkpoint.FILE).exists()
    assert run(model, tmp_path / "broken", settings, on_round=stop) == again, "a finished run is not run again"
    with pytest.raises(TrainingError, match="another model, data or configuration"):
        run(model, tmp_path / "broken", replace(settings, rounds=5))


def test_what_is_trained_over_a_bfloat16_base_is_float32(folder: Path, tmp_path: Path) -> None:
    """So no step of policy or critic needs a master copy; all weights of a policy cannot be trained."""

    def stop(done: int, total: int, health: Any) -> None:
        raise Stop

    with pytest.raises(Stop):
        run(load(str(folder), dtype="bfloat16"), tmp_path, config("ppo", rounds=2, samples=2), on_round=stop)
    kept = torch.load(tmp_path / _checkpoint.FILE, weights_only=True)["params"]
    assert any(name.startswith("critic/head") for name in kept)
    assert {p.dtype for p in kept.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("objective", "changes"), [("grpo", {}), ("rloo", {}), ("ppo", {"epochs": 2, "batch_items": 2})]
)
def test_layers_below_all_adapters_are_computed_once_and_nothing_else_changes(
    model: Any, tmp_path: Path, objective: str, changes: dict[str, Any]
) -> None:
    upper = Lora(r=4, from_layer=1)
    settings = config(objective, train={"lr": 1e-3, **changes}, rounds=3, critic=upper)
    kept, again = (
        replace(settings, train=replace(settings.train, adapter=upper, reuse_frozen=reuse)) for reuse in (True, False)
    )
    found = [run(model, tmp_path / name, s) for name, s in (("kept", kept), ("again", again))]
    begun = [run(model, tmp_path / f"{i}", s, start=found[0].path) for i, s in enumerate((kept, again))]
    for one, other in (found, begun):
        for a, b in zip(one.history, other.history, strict=True):
            assert {k: v for k, v in a.items() if k != "seconds"} == pytest.approx(
                {k: v for k, v in b.items() if k != "seconds"}, rel=1e-3, abs=1e-4
            )
    layers = decoder_layers(model.module)
    assert not any(isinstance(layer, _Skip) for layer in layers), "the model that was given is whole"


def test_what_is_lifted_is_put_back_even_after_an_error(model: Any) -> None:
    modules = [packed_copy(model.module) for _ in range(2)]
    items = [Item(prompt=(1, 2, 3), answers=((4, 5), (6,))), Item(prompt=(1, 2), answers=((7,), (8, 9)))]
    plain = score(modules[0], items, 200)
    calls, passes = list[int](), list[int]()
    for module in modules:
        decoder_layers(module)[0].register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(Stop), lifted(modules, items, 1, 200) as lower:
        for module in modules:
            for ours, theirs in zip(score(module, items, 200, lower), plain, strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    torch.testing.assert_close(a, b)
            passes.append(len(calls))
        assert passes == [workers_of(torch.device("cpu"))] * 2, "a row for each worker, and none for the second module"
        raise Stop
    assert torch.equal(score(modules[1], items, 200)[0][0], plain[0][0]) and len(calls) > passes[-1]
    with lifted(modules, items, 0, 200) as none:
        assert none is None
    assert first_trained(modules[0].requires_grad_(False)) == len(decoder_layers(modules[0]))


def test_samples_are_drawn_from_the_policy_and_each_has_its_own_luck(model: Any) -> None:
    sampler = Sampler(model, packed_copy(model.module), samples=8, limit=6, temperature=1.0, seed=0)
    items, samples = sampler.draw(CASES, 0)
    assert len(items) == 4 and len(samples) == 32 and all(len(i.answers) == 8 for i in items)
    assert [s.tokens for s in samples] == [a for i in items for a in i.answers]
    assert len({s.tokens for s in samples}) > 16
    again = sampler.draw(CASES[:2], 0)[1]
    assert [s.tokens for s in again] == [s.tokens for s in samples[:16]], "what else is in the batch changes nothing"
    assert sampler.draw(CASES, 1)[1] != samples
    assert all(s.ended == (len(s.tokens) < 6 or s.tokens[-1] in sampler.eos) for s in samples)


def test_the_first_tokens_have_the_policys_distribution(model: Any) -> None:
    """At temperature 2, too: what is sampled is what `score` says is likely."""
    case, n = CASES[0], 600
    sampler = Sampler(model, packed_copy(model.module), samples=n, limit=1, temperature=2.0, seed=3)
    drawn = [s.tokens[0] for s in sampler.draw([case], 0)[1]]
    prompt = tuple(model.encode(case.messages))
    every = [Item(prompt=prompt, answers=tuple((t,) for t in range(320)))]
    logps = torch.stack(score(packed_copy(model.module), every, 1000, temperature=2.0)[0])[:, 0]
    assert logps.exp().sum().item() == pytest.approx(1.0, abs=1e-4)
    top = logps.topk(5)
    for logp, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        p, seen = math.exp(logp), drawn.count(token) / n
        assert abs(seen - p) < 4 * math.sqrt(p * (1 - p) / n), (token, p, seen)


def test_dynamic_sampling_draws_again_for_prompts_without_a_signal(model: Any) -> None:
    sampler = Sampler(model, packed_copy(model.module), samples=3, limit=3, temperature=1.0, seed=0)
    deaf = {"c0", "c1"}
    reward = each(lambda s: 0.0 if s.case.id in deaf else float(s.tokens[0]))
    drawn = collect(sampler, CASES, reward, None, first=0, count=2, number=0, tries=5)
    assert len(drawn.items) == 2 and {s.case.id for s in drawn.samples} <= {"c2", "c3"} and drawn.asked >= 2
    with pytest.raises(TrainingError, match="no prompt of"):
        collect(sampler, CASES, each(lambda s: 1.0), None, first=0, count=2, number=0, tries=1)


def test_every_prompt_comes_once_before_any_comes_twice() -> None:
    stream = prompt_order(5, 0, 15, seed=1)
    assert [sorted(stream[i : i + 5]) for i in (0, 5, 10)] == [list(range(5))] * 3
    assert stream[:5] != stream[5:10]
    assert prompt_order(5, 7, 6, seed=1) == stream[7:13]


def test_a_reward_that_fails_is_not_a_zero(model: Any, tmp_path: Path) -> None:
    patchy = each(lambda s: None if s.case.id == "c0" else float(s.tokens[0] < 160))
    found = run(model, tmp_path, config(rounds=2), patchy)
    assert found.history[0]["unscored"] == pytest.approx(0.25)
    rows = [json.loads(line) for line in (tmp_path / "rounds" / "00000.jsonl").read_text().splitlines()]
    assert {r["reward"] for r in rows if r["case"] == "c0"} == {None} and len(rows) == 40
    with pytest.raises(TrainingError, match="no answer of this round has one") as caught:
        run(model, tmp_path / "nan", config(rounds=1), each(lambda s: math.nan))
    assert "nan" in str(caught.value.got)


def test_samples_whose_reward_fails_are_counted_named_and_not_learnt_from(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fivefold.align"), "propagate", True)

    def brittle(sample: Sample) -> float:
        if sample.case.id == "c0":
            raise ValueError("no such thing")
        return float(sample.tokens[0] < 160)

    silent = each(lambda s: None if s.case.id == "c0" else float(s.tokens[0] < 160))
    broken = run(model, tmp_path / "broken", config(rounds=2), each(brittle))
    left_out = run(model, tmp_path / "silent", config(rounds=2), silent)
    assert broken.history[0]["errored"] == pytest.approx(0.25) and broken.history[0]["unscored"] == pytest.approx(0.0)
    assert left_out.history[0]["errored"] == 0.0
    assert [h["loss"] for h in broken.history] == [h["loss"] for h in left_out.history]
    assert broken.history[0]["reward"] == left_out.history[0]["reward"], "an error is not a 0"
    assert any("failed for 10 of 40 answers, the first: ValueError: no such thing" in m for m in caplog.messages)
    rows = [json.loads(line) for line in (tmp_path / "broken" / "rounds" / "00000.jsonl").read_text().splitlines()]
    assert {(r["reward"], r.get("error")) for r in rows if r["case"] == "c0"} == {(None, "ValueError: no such thing")}
    assert not any("error" in r for r in rows if r["case"] != "c0")


def test_the_critic_learns_what_to_expect(model: Any, tmp_path: Path) -> None:
    settings = config("ppo", train={"epochs": 4, "lr": 0.0}, rounds=8, critic_lr=5e-3, critic_clip=10.0)
    by_prompt = each(lambda s: float(s.case.id in ("c0", "c2")))
    found = run(model, tmp_path, settings, by_prompt)
    left = [h["unexplained"] for h in found.history]
    assert left[-1] < 0.5 * left[0], left


def test_the_multiplier_rises_while_the_limit_is_exceeded(model: Any, tmp_path: Path) -> None:
    settings = config("safe_rlhf", train={"options": {"limit": 0.1, "rate": 1.0}}, rounds=6)
    found = run(model, tmp_path, settings, each(lambda s: 0.0), cost=low_ids)
    prices = [h["multiplier"] for h in found.history]
    costs = [h["cost"] for h in found.history]
    assert prices == sorted(prices) and prices[-1] > prices[0] and costs[-1] < costs[0]


def test_the_penalty_seeks_its_target() -> None:
    control = KLControl(weight=0.1, target=2.0, horizon=100)
    assert next_weight(0.1, 2.2, 50, control) == pytest.approx(0.1 * (1 + 0.1 * 0.5))
    assert next_weight(0.1, 50.0, 50, control) == pytest.approx(0.1 * 1.1)
    assert next_weight(0.1, 0.0, 50, control) == pytest.approx(0.1 * 0.9)
    assert next_weight(0.1, 50.0, 50, KLControl(weight=0.1)) == 0.1


@pytest.mark.parametrize("action", ["warn", "stop", "rollback"])
def test_reward_hacking_is_noticed_and_answered(model: Any, tmp_path: Path, action: str) -> None:
    """Proxy and gold reward are opposites, so that whoever learns one loses the other."""
    monitor = MonitorConfig(action=action, window=2, level=0.9)  # type: ignore[arg-type]
    settings = config(rounds=12, monitor=monitor, keep_every=1, train={"lr": 6e-2})
    found = run(model, tmp_path, settings, gold=high_ids)
    assert found.alarms, [(h["reward"], h["gold"]) for h in found.history]
    first = found.alarms[0]
    assert first.sign == "divergence" and first.onset <= first.round and "gold reward fell" in first.message
    if action == "warn":
        assert found.ended == "finished" and len(found.history) == 12
        return
    assert len(found.history) == first.round + 1 < 12
    if action == "stop":
        assert found.ended == "stopped" and found.weights_of == first.round
        return
    assert found.ended == "rolled back" and found.weights_of == first.onset - 1
    kept = torch.load(tmp_path / "kept" / f"{found.weights_of}.pt", weights_only=True)
    from safetensors.torch import load_file

    saved = load_file(found.path / "adapter_model.safetensors")
    assert len(saved) == len(kept)
    for name, value in kept.items():
        assert torch.equal(_named(saved, name), value)


def _named(saved: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The saved tensor of a trained parameter, whose name has the adapter's name in it."""
    plain = name.replace(".default", "")
    return next(v for k, v in saved.items() if k.endswith(plain) or plain.endswith(k))


def test_what_cannot_be_run_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not learn from samples"):
        run(model, tmp_path, config("dpo"))
    with pytest.raises(UsageError, match="cost go together"):
        run(model, tmp_path, config("safe_rlhf"))
    with pytest.raises(DataError, match="no prompts"):
        reinforce(model, [], low_ids, config(), tmp_path, reward_name="x")
    dropout = replace(config(), train=replace(config().train, adapter=Lora(dropout=0.1)))
    with pytest.raises(UsageError, match="without dropout"):
        run(model, tmp_path, dropout)
