"""GRPO with rewards that can be checked: grade-school problems, code against its tests, or rewards of the user's own.

Without other rewards the reward is that the answer's number is right, plus a little for the form ("#### " and the number
at the end, once), less the soft punishment of answers near the length limit. Each reward is measured greedily on problems
not trained on, before and after, with intervals; a model that is too small to solve any of them learns the form alone, and
the result says so. Source: Shao et al. 2024 (DeepSeekMath, arXiv:2402.03300); Cobbe et al. 2021 (GSM8K, arXiv:2110.14168).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fivefold.align import _ranges
from fivefold.align._adapter import Lora
from fivefold.align._tuned import need_adapters
from fivefold.align.monitor import MonitorConfig
from fivefold.align.recipes._result import RecipeResult, raised, shown
from fivefold.align.recipes.rlhf import OnStage
from fivefold.align.rewards import Sample, Value, checked
from fivefold.align.rewards.named import NamedReward, Part, named
from fivefold.align.rl import RLConfig, reinforce
from fivefold.align.train import TrainConfig
from fivefold.runtime.protocol import Request, WhiteBox
from fivefold.score.scorers.number import value_of
from fivefold.stats import measure_mean, measure_rate
from fivefold.types import Case, Errored, Measurement, Outcome, Scored, Unscored, digest


def _rl() -> RLConfig:
    settings = TrainConfig(loss="grpo", adapter=Lora(r=16, alpha=32), lr=2e-4, batch_items=8, schedule="constant")
    monitor = MonitorConfig(action="stop")
    return RLConfig(train=settings, rounds=30, prompts=8, samples=8, max_new_tokens=96, monitor=monitor)


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """The reward's parts and the loop."""

    rl: RLConfig = field(default_factory=_rl)
    """The loop; any objective of kind `rollout` without a cost."""
    right: float = 1.0
    """Reward of the right number, where no other rewards are named."""
    form: float = 0.2
    """Reward of the form asked for, likewise."""
    overlong: float = 0.2
    """Weight of the punishment of answers in the last quarter before the length limit, likewise."""
    shots: int = 0
    """Worked examples before each problem, for public data sets: a small model then sees the form that is asked for."""
    held_out_cases: int = 64
    """At most so many held-out problems are measured on."""
    seed: int = 0
    """Seed of the run."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "held_out_cases", "shots", least=0)
        _ranges.numbers(self, "right", "form", "overlong", below=True)
        need_adapters(rl__train=self.rl.train)


def grpo(
    model: WhiteBox,
    cases: Sequence[Case],
    *,
    out: Path,
    held_out: Sequence[Case] = (),
    config: GRPOConfig | None = None,
    reward: NamedReward | None = None,
    gold: NamedReward | None = None,
    start: Path | None = None,
    on_step: OnStage | None = None,
) -> RecipeResult:
    """Train on `cases` with `reward`; measure on `held_out` before and after.

    Without a reward the targets of `cases` are numbers, and the configuration's weights hold. `gold` is watched beside
    the reward and never learnt from; without one that is whether the number is right, where every case has one. `start`
    is an adapter to begin from: it is the reference, and what is measured before. Raises as `align.rl.reinforce` does,
    and DataError for cases that a built-in reward cannot score.
    """
    config = config or GRPOConfig()
    reward, gold = reward or reward_of(config), gold or _right(cases)
    watched = [reward] if gold is None else [reward, gold]
    for of in watched:
        of.check([*cases, *held_out])
    say = on_step or (lambda *_: None)
    run = reinforce(
        model,
        cases,
        reward.reward,
        replace(config.rl, train=replace(config.rl.train, seed=config.seed)),
        out / "rl",
        reward_name=reward.name,
        gold=None if gold is None else gold.reward,
        start=start,
        on_round=lambda done, all_, health: say("grpo", done, all_, health.get("reward", 0.0)),
    )
    tuned = model.with_adapter(str(run.path), name=f"{model.name}+{config.rl.train.loss}")
    before = model if start is None else model.with_adapter(str(start), name=f"{model.name}+start")
    asked = held_out[: config.held_out_cases]
    measured = [
        m
        for version in (before, tuned)
        for m in measure_rewards(version, asked, watched, config.rl.max_new_tokens)
        if asked
    ]
    first, last = run.history[0], run.history[-1]
    said = [
        f"{config.rl.train.loss} {run.ended} after {len(run.history)} rounds: reward "
        f"{first.get('reward', 0.0):.3f} → {last.get('reward', 0.0):.3f}, KL {last['kl']:.2f} nats"
    ]
    if gold is not None and "gold" in first and "gold" in last:
        said.append(f"gold reward {gold.name}, not learnt from: {first['gold']:.3f} → {last['gold']:.3f}")
    said += [f"{m.metric} of {m.subject_name} on held-out problems: {shown(m)}" for m in measured]
    failed = [h["errored"] for h in run.history]
    if any(failed):
        said.append(
            f"the reward failed for {sum(failed) / len(failed):.1%} of the answers, which were not learnt from: the errors "
            f"stand in {out / 'rl' / 'rounds'}"
        )
    said += raised(run.alarms)
    return RecipeResult(
        path=run.path,
        data_digest=digest(list(cases)),
        losses=tuple(h["loss"] for h in run.history),
        sentences=tuple(said),
        measurements=measured,
        rows=run.history,
        files={"record": run.record},
    )


def reward_of(config: GRPOConfig) -> NamedReward:
    """The reward that the configuration's weights describe."""
    weights = {"number": config.right, "form": config.form, "overlong": config.overlong}
    return named([f"{name}*{weight!r}" for name, weight in weights.items()], config.rl.max_new_tokens)


def _right(cases: Sequence[Case]) -> NamedReward | None:
    """Whether the number is right, where every case has one."""
    return named(["number"], 0) if all(value_of(str(c.target)) is not None for c in cases) else None


def measure_rewards(
    model: WhiteBox, cases: Sequence[Case], rewards: Sequence[NamedReward], limit: int
) -> list[Measurement]:
    """Each part of the rewards on greedy answers: a share where it is 0 or 1, else its mean. What only shapes a reward
    (length) is not measured, and what stands in two of them once."""
    asked = model.generate([Request(messages=c.messages, max_new_tokens=limit) for c in cases])
    samples = [
        Sample(case=c, text=a.text, tokens=a.tokens, ended=a.stop_reason == "stop")
        for c, a in zip(cases, asked, strict=True)
    ]
    found = []
    parts = {(p.name, p.file): p for reward in rewards for p in reward.parts if p.name != "overlong"}
    for part in parts.values():
        values = checked(part.reward, samples)
        outcomes: list[Outcome] = [
            Errored(error=a.error) if a.error else _outcome(v, part.name) for a, v in zip(asked, values, strict=True)
        ]
        found.append(_measured(model, part, outcomes, digest(list(cases))))
    return found


def _measured(model: WhiteBox, part: Part, outcomes: Sequence[Outcome], dataset: str) -> Measurement:
    about: dict[str, Any] = {
        "subject": model.fingerprint,
        "subject_name": model.name,
        "dataset": dataset,
        "judge": part.file,
    }
    if part.built_in is not None and part.built_in.metric:
        return measure_rate(outcomes, metric=part.built_in.metric, safer="neither", **about)
    return measure_mean(outcomes, metric=f"reward/{part.name}", safer="neither", unit="reward", **about)


def _outcome(value: Value, judge: str) -> Outcome:
    if isinstance(value, Errored):
        return value
    if value is None:
        return Unscored(reason=f"the reward {judge} has nothing to score here", judge=judge)
    return Scored(value=value, label=f"{value:g}", judge=judge)
