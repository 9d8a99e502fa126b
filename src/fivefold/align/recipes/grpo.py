"""GRPO with rewards that can be checked: grade-school problems whose number is right or wrong, in the form asked for.

The reward is the answer's correctness, plus a little for the form ("#### " and the number at the end, once), less the soft
punishment of answers near the length limit. Correctness on problems not trained on is measured greedily before and after,
with intervals; a model that is too small to solve any of them learns the form alone, and the result says so. Source: Shao
et al. 2024 (DeepSeekMath, arXiv:2402.03300); Cobbe et al. 2021 (GSM8K, arXiv:2110.14168).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fivefold.align._adapter import Lora
from fivefold.align.monitor import MonitorConfig
from fivefold.align.recipes._result import RecipeResult, shown
from fivefold.align.recipes.rlhf import OnStage
from fivefold.align.rewards import Reward, Sample, checked, exact, length, total
from fivefold.align.rl import RLConfig, reinforce
from fivefold.align.train import TrainConfig
from fivefold.runtime.protocol import Request, WhiteBox
from fivefold.stats import measure_rate
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
    """Reward of the right number."""
    form: float = 0.2
    """Reward of the form asked for."""
    overlong: float = 0.2
    """Weight of the punishment of answers in the last quarter before the length limit."""
    held_out_cases: int = 64
    """At most so many held-out problems are measured on."""
    seed: int = 0
    """Seed of the run."""


def grpo(
    model: WhiteBox,
    cases: Sequence[Case],
    *,
    out: Path,
    held_out: Sequence[Case] = (),
    config: GRPOConfig | None = None,
    start: Path | None = None,
    on_step: OnStage | None = None,
) -> RecipeResult:
    """Train on `cases`, whose targets are numbers; measure on `held_out` before and after."""
    config = config or GRPOConfig()
    say = on_step or (lambda *_: None)
    run = reinforce(
        model,
        cases,
        reward_of(config),
        replace(config.rl, train=replace(config.rl.train, seed=config.seed)),
        out / "rl",
        reward_name=f"number {config.right}, form {config.form}, overlong {config.overlong}",
        gold=exact.number(),
        start=start,
        on_round=lambda done, all_, health: say("grpo", done, all_, health.get("reward", 0.0)),
    )
    tuned = model.with_adapter(str(run.path), name=f"{model.name}+{config.rl.train.loss}")
    measured = [
        m
        for version in (model, tuned)
        for m in measure_numbers(version, held_out[: config.held_out_cases], config.rl.max_new_tokens)
        if held_out
    ]
    first, last = run.history[0], run.history[-1]
    said = [
        f"{config.rl.train.loss} {run.ended} after {len(run.history)} rounds: reward "
        f"{first.get('reward', 0.0):.3f} → {last.get('reward', 0.0):.3f}, KL {last['kl']:.2f} nats"
    ]
    said += [f"{m.metric} of {m.subject_name} on held-out problems: {shown(m)}" for m in measured]
    said += [f"alarm ({a.sign}) in round {a.round}: {a.message}" for a in run.alarms]
    return RecipeResult(
        path=run.path,
        data_digest=digest(list(cases)),
        losses=tuple(h["loss"] for h in run.history),
        sentences=tuple(said),
        measurements=measured,
        rows=run.history,
        files={"record": run.record},
    )


def reward_of(config: GRPOConfig) -> Reward:
    """The reward that the configuration describes."""
    limit = config.rl.max_new_tokens
    parts = [(config.right, exact.number()), (config.form, exact.form())]
    return total(*parts, (config.overlong, length.overlong(limit, max(1, limit // 4))))


def measure_numbers(model: WhiteBox, cases: Sequence[Case], limit: int) -> list[Measurement]:
    """Shares of greedy answers with the right number, and in the form asked for."""
    asked = model.generate([Request(messages=c.messages, max_new_tokens=limit) for c in cases])
    samples = [
        Sample(case=c, text=a.text, tokens=a.tokens, ended=a.stop_reason == "stop")
        for c, a in zip(cases, asked, strict=True)
    ]
    found = []
    for metric, reward in (("answer_accuracy", exact.number()), ("answer_form", exact.form())):
        outcomes: list[Outcome] = [
            Errored(error=a.error) if a.error else _outcome(v, metric)
            for a, v in zip(asked, checked(reward, samples), strict=True)
        ]
        found.append(
            measure_rate(
                outcomes,
                metric=metric,
                subject=model.fingerprint,
                subject_name=model.name,
                safer="neither",
                dataset=digest(list(cases)),
            )
        )
    return found


def _outcome(value: float | None, judge: str) -> Outcome:
    if value is None:
        return Unscored(reason="the case has no number as its target", judge=judge)
    return Scored(value=value, label="yes" if value == 1.0 else "no", judge=judge)
