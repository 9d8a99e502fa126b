"""Reinforcement learning from human feedback: SFT on preferred answers, a reward model, then PPO against it.

Beside the reward model that the policy learns from (the proxy) a second one is trained on other pairs (the gold reward)
and is only measured. The curve of both against the KL divergence shows over-optimisation: the proxy goes on rising where
the gold reward turns. Proxy and gold never share a pair, and neither sees the held-out pairs on which their accuracy is
measured. Source: Ouyang et al. 2022 (InstructGPT, arXiv:2203.02155); Gao et al. 2022 (arXiv:2210.10760) for the curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fivefold.align import _checkpoint, _ranges
from fivefold.align._adapter import Lora
from fivefold.align._processes import processes
from fivefold.align._tuned import begun, need_adapters, need_local_samples
from fivefold.align.data.preferences import Preference, by_split, chosen_items, preference_items
from fivefold.align.kl import KLControl
from fivefold.align.recipes._result import RecipeResult, raised, shown
from fivefold.align.reward import Pairs, RewardConfig, RewardModel, RewardResult, load_reward, train_reward
from fivefold.align.rl import RLConfig, RLResult, reinforce
from fivefold.align.train import TrainConfig, train
from fivefold.errors import DataError
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import digest

LORA = Lora(r=16, alpha=32)


def _rl() -> RLConfig:
    settings = TrainConfig(loss="ppo", adapter=LORA, lr=1e-4, batch_items=8, epochs=2, schedule="constant")
    return RLConfig(train=settings, rounds=30, prompts=16, samples=2, max_new_tokens=48, kl=KLControl(weight=0.02))


@dataclass(frozen=True, kw_only=True)
class RLHFConfig:
    """The three stages."""

    sft: TrainConfig = field(default_factory=lambda: TrainConfig(loss="sft", adapter=LORA, lr=3e-4))
    """First stage: the preferred answers of the train split. Where it trains all weights, the others put their adapters on
    what it leaves."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """Second stage: the proxy, on one half of the train split."""
    gold: RewardConfig = field(default_factory=lambda: RewardConfig(heads=4))
    """The reward that is only measured, on the other half."""
    rl: RLConfig = field(default_factory=_rl)
    """Third stage. PPO's critic begins as the proxy does."""
    prompt_tokens: int = 192
    """Longer conversations are left out."""
    answer_tokens: int = 64
    """Answers are cut to this."""
    seed: int = 0
    """Seed of all stages."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "prompt_tokens", "answer_tokens")
        need_adapters(reward__train=self.reward.train, gold__train=self.gold.train, rl__train=self.rl.train)
        need_local_samples(self.sft, self.rl)


OnStage = Callable[[str, int, int, float], None]
"""Called with (stage, step, steps in all, loss or reward)."""


def rlhf(
    model: WhiteBox,
    preferences: Sequence[Preference],
    *,
    out: Path,
    config: RLHFConfig | None = None,
    on_step: OnStage | None = None,
) -> RecipeResult:
    """Train `model` on `preferences` in three stages; the rows of the result are the over-optimisation curve.

    DataError when a split has too few pairs that fit. Killed and called again, it goes on where it was.
    """
    config = config or RLHFConfig()
    processes(next(model.module.parameters()).device)  # what the last stage refuses is refused now
    trained, held_out = (
        preference_items(
            model, by_split(preferences, s), prompt_tokens=config.prompt_tokens, answer_tokens=config.answer_tokens
        )
        for s in ("train", "test")
    )
    if len(trained) < 4 or not held_out:
        raise DataError(
            "too few preferences to train a reward model and to measure it",
            expected="at least 4 pairs of the train split and 1 of the test split, short enough",
            got=f"{len(trained)} and {len(held_out)}",
        )
    say = on_step or (lambda *_: None)
    sft = train(
        model,
        chosen_items(trained),
        replace(config.sft, seed=config.seed),
        out / "sft",
        on_step=lambda p: say("sft", p.step, p.total, p.loss),
    )
    policy, start = begun(model, sft.path, f"{model.name}+sft")
    rewards, models = [], []
    for half, (name, settings) in enumerate((("reward", config.reward), ("gold", config.gold))):
        made = train_reward(
            policy,
            Pairs(items=trained[half::2]),
            _seeded(settings, config.seed + half),
            out / name,
            held_out=held_out,
            start=start,
            on_step=lambda p, stage=name: say(stage, p.step, p.total, p.loss),  # type: ignore[misc]
        )
        rewards.append(made)
        models.append(load_reward(policy, out / name))
    cases = [p.case() for p in by_split(preferences, "train") if len(model.encode(p.messages)) <= config.prompt_tokens]
    run = reinforce(
        policy,
        cases,
        models[0],
        replace(config.rl, train=replace(config.rl.train, seed=config.seed)),
        out / "rl",
        reward_name=digest(rewards[0].record.read_text()),
        gold=models[1],
        start=start,
        critic_start=rewards[0].path,
        on_round=lambda done, total, health: say("rl", done, total, health.get("reward", 0.0)),
    )
    rows = curve(run)
    _checkpoint.write_json(out / "curve.json", rows)
    return replace(_result(out, run, rewards, models, rows, trained, sft.losses), on=None if start else sft.path)


def _seeded(settings: RewardConfig, seed: int) -> RewardConfig:
    return replace(settings, train=replace(settings.train, seed=seed))


def curve(run: RLResult) -> list[dict[str, Any]]:
    """Proxy and gold reward against the KL divergence from the start, round by round; absent where not measured."""
    names = {"round": "round", "kl": "kl", "reward": "proxy", "gold": "gold", "length": "length", "entropy": "entropy"}
    return [{new: h[old] for old, new in names.items() if old in h} for h in run.history]


def _result(
    out: Path,
    run: RLResult,
    rewards: list[RewardResult],
    models: list[RewardModel],
    rows: list[dict[str, Any]],
    items: Sequence[Any],
    losses: tuple[float, ...],
) -> RecipeResult:
    measured = [r.accuracy for r in rewards if r.accuracy is not None]
    named = zip(("reward model", "gold reward model"), measured, strict=True)
    last = rows[-1]
    said = [f"{name}: held-out accuracy {shown(m)}" for name, m in named]
    said.append(
        f"PPO {run.ended} after {len(rows)} rounds: proxy {rows[0]['proxy']:.2f} → {last['proxy']:.2f}, "
        f"gold {rows[0]['gold']:.2f} → {last.get('gold', rows[0]['gold']):.2f}, KL {last['kl']:.2f} nats"
    )
    said += raised(run.alarms)
    return RecipeResult(
        path=run.path,
        data_digest=digest(list(items)),
        losses=losses,
        sentences=tuple(said),
        measurements=measured,
        rows=rows,
        files={"curve": out / "curve.json", "reward": rewards[0].path, "gold": rewards[1].path},
    )
