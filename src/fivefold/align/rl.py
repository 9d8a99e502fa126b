"""Learning from rewards: one loop for PPO with a critic and for the group methods without one.

Read `reinforce` first; it is the whole algorithm: sample a group of answers to each prompt, score them, turn rewards into
advantages, take a few steps on the samples, look at what has become of the policy. The objective is a file in
`align/losses` of kind `rollout`. Fast by sharing: a group is generated from one prefill in one continuous batch; its
prompt is computed once for all its answers in the update; vocabulary logits exist only at answer tokens; the reference's
log-probabilities are computed once a round, and layers below all adapters once for policy, reference and critic. The
policy is an adapter over frozen weights that reference and critic share.

Source: Schulman et al. 2017 (PPO, arXiv:1707.06347); Ouyang et al. 2022 (InstructGPT, arXiv:2203.02155); Shao et al. 2024
(GRPO, arXiv:2402.03300). Dropout is off throughout, so that ratios compare the policy with itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fivefold.align import _checkpoint, _ranges
from fivefold.align._adapter import Lora, save_trained
from fivefold.align._learner import Learner, State
from fivefold.align._loop import TrainConfig, checkpoint_due, restore, seeded, snapshot
from fivefold.align._processes import Processes, processes
from fivefold.align._ray import RayConfig
from fivefold.align._rollouts import Drawn, collect
from fivefold.align.kl import KLControl
from fivefold.align.losses._base import config_of, load
from fivefold.align.monitor import Alarm, MonitorConfig, alarms, spread
from fivefold.align.rewards import Reward, checked, scores
from fivefold.align.sinks import check_sinks, opened
from fivefold.align.train import run_key
from fivefold.errors import DataError, UsageError
from fivefold.registry import registry
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.types import Case, digest, plain

RECORD = "reinforcement.json"
LOG = logging.getLogger("fivefold.align")
KEPT = "kept"


def _training() -> TrainConfig:
    return TrainConfig(loss="grpo", lr=1e-4, batch_items=8, schedule="constant", checkpoint_seconds=60.0)


@dataclass(frozen=True, kw_only=True)
class RLConfig:
    """How to learn from rewards."""

    train: TrainConfig = field(default_factory=_training)
    """Objective (`loss`, of kind `rollout`), adapter and optimiser. `batch_items` are prompts per optimiser step, `epochs`
    how often a round's samples are used."""
    rounds: int = 50
    """Rounds of sampling and learning."""
    prompts: int = 8
    """Prompts per round."""
    samples: int = 8
    """Answers to each prompt (G)."""
    max_new_tokens: int = 64
    """Longest answer."""
    temperature: float = 1.0
    """At which answers are sampled, and probabilities are compared."""
    vllm: str | None = None
    """Address of a vLLM server that draws the samples (`http://localhost:8000`); None: the trainer draws them itself."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Ray workers, on this machine or on many, that draw the samples; none by default."""
    resample: int = 3
    """For objectives with dynamic sampling: further draws for prompts whose answers all got the same reward."""
    kl: KLControl = field(default_factory=KLControl)
    """Weight of the KL penalty in the reward, for objectives that have it there."""
    critic: Lora = field(default_factory=Lora)
    """The critic's adapter, for objectives with a critic."""
    critic_lr: float = 3e-4
    """The critic's learning rate."""
    critic_clip: float = 0.2
    """How far a value may move in one round."""
    gold_every: int = 1
    """Rounds between measurements of the gold reward."""
    keep_every: int = 5
    """Rounds between the weights that a rollback can go back to."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """What is an alarm, and what follows."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "rounds", "prompts", "samples", "max_new_tokens", "gold_every", "keep_every")
        _ranges.counts(self, "resample", least=0)
        _ranges.numbers(self, "temperature", "critic_clip", above=True, below=True)
        _ranges.numbers(self, "critic_lr", below=True)
        if self.vllm is not None and self.ray.workers:
            raise UsageError("samples come from a vLLM server or from Ray workers", expected="one of the two")
        least = getattr(load(self.train.loss), "LEAST_SAMPLES", 1)
        if self.samples < least:
            raise UsageError(
                f"the {self.train.loss} loss compares an answer with others to its prompt",
                expected=f"samples of at least {least}",
                got=self.samples,
                next_step="draw more, or learn with ppo or reinforce_pp",
            )


@dataclass(frozen=True, kw_only=True)
class RLResult:
    """A finished run. `path` is the policy's adapter. `history` has one row of numbers a round.

    `ended` is `finished`, `stopped` or `rolled back`; `weights_of` is the round whose weights these are (-1: the start).
    """

    path: Path
    record: Path
    key: str
    history: tuple[Mapping[str, float], ...]
    alarms: tuple[Alarm, ...]
    ended: str
    weights_of: int
    tokens: int
    seconds: float


OnRound = Callable[[int, int, Mapping[str, float]], None]
"""Called with (rounds done, rounds in all, the round's numbers)."""


def reinforce(
    model: WhiteBox,
    cases: Sequence[Case],
    reward: Reward,
    config: RLConfig,
    out: Path,
    *,
    reward_name: str,
    gold: Reward | None = None,
    cost: Reward | None = None,
    start: Path | None = None,
    critic_start: Path | None = None,
    on_round: OnRound | None = None,
) -> RLResult:
    """Train `model` on its own answers to `cases`, scored by `reward`; leaves an adapter with its record in `out`.

    `reward_name` says which reward that is (a digest, a name with its version): with it a run is known again. `gold` is
    a reward that is measured and never learnt from; `cost` serves objectives with a constraint. `start` is an adapter to
    begin from, which is then the reference, too; `critic_start` a reward model's adapter for the critic to begin from.

    Exactly resumable: killed and called with the same arguments, a run goes on after its last checkpoint and ends in the
    same weights. Started by `accelerate launch` in several processes, each draws, scores and learns its share; `out` is a
    folder that all see, and the first alone writes. Raises UsageError for an objective of another kind, DataError without
    prompts, TrainingError when the loss is no longer finite, when no rewards differ, or when `out` belongs to another run.
    """
    settings, objective = config.train, load(config.train.loss)
    check_run(model, cases, config, objective, cost)
    options = config_of(objective, settings.loss_options)
    identity = plain(replace(config, train=replace(settings, log_to=(), gradient_checkpointing=False)))
    key = digest([run_key(model, digest(list(cases)), settings, start), identity, reward_name, str(critic_start)])
    if (done := finished(out, key)) is not None:
        return done
    began, together = time.monotonic(), processes(next(model.module.parameters()).device)
    with seeded(settings.seed):
        learner = Learner(model, config, objective, options, start, critic_start, out, together)
        state = State(kl=config.kl.weight, multiplier=getattr(options, "start", 0.0))
        if (found := _checkpoint.load(out, key)) is not None:
            state = _resumed(found, learner)
            began -= found["seconds"]
        elif config.monitor.action == "rollback":
            together.told(lambda: _keep(out, -1, learner.policy))
        together.agree("how far the run has come", (key, len(state.history)))
        together.align(learner.params())
        kept, names = time.monotonic(), settings.log_to if together.first else ()
        with opened(names, out, key[:16], len(state.history)) as watching, closing(learner.sampler):
            while len(state.history) < config.rounds and not _halted(state, config):
                number = len(state.history)
                learner.sampler.refresh(number)
                drawn = collect(
                    learner.sampler,
                    cases,
                    reward,
                    cost,
                    first=state.drawn,
                    count=config.prompts,
                    number=number,
                    tries=config.resample if getattr(objective, "FILTER", False) else 0,
                    together=together,
                )
                health = {"round": float(number), **learner.learn(drawn, state, number)}
                health |= _gold(drawn, gold, number, config, together)
                health["seconds"] = time.monotonic() - began
                if together.first:
                    _say_errors(drawn, number)
                    _write_samples(out, number, drawn)
                state.history.append(health)
                for sink in watching:
                    sink.write(number + 1, health)
                state.alarms += together.told(lambda: alarms(state.history, config.monitor))
                if together.first and config.monitor.action == "rollback" and (number + 1) % config.keep_every == 0:
                    _keep(out, number, learner.policy)
                if together.keeping(checkpoint_due(number, config.rounds, time.monotonic() - kept, settings)):
                    _save(out, key, learner, state, time.monotonic() - began)
                    kept = time.monotonic()
                if on_round and together.first:
                    on_round(number + 1, config.rounds, health)

        def leave() -> None:
            ended, weights_of = _settle(out, learner, state, config)
            path, seconds = save_trained(learner.trained, out), time.monotonic() - began
            about: dict[str, Any] = {"reward": reward_name, "processes": together.size}
            about |= {"ended": ended, "weights_of": weights_of, "path": path.name, "seconds": round(seconds, 2)}
            _record(out, key, model, cases, config, state, about)

        together.told(leave)
    made = finished(out, key)
    assert made is not None
    return made


def check_run(
    model: WhiteBox, cases: Sequence[Case], config: RLConfig, objective: ModuleType, cost: Reward | None
) -> None:
    """Raise an error that says what is missing before anything is computed."""
    require(model, Capability.GRADIENTS, for_="learning from rewards")
    check_sinks(config.train.log_to)
    name, settings = config.train.loss, config.train
    if settings.ema is not None or settings.check_steps is not None or settings.patience is not None:
        raise UsageError(
            "learning from rewards has no averaged weights and no held-out loss",
            expected="ema, check_steps and patience left out",
            next_step="monitor.action=stop or rollback ends a run early",
        )
    if objective.KIND != "rollout":
        fitting = [n for n in registry("loss").names() if load(n).KIND == "rollout"]
        raise UsageError(f"the {name} loss does not learn from samples", expected=", ".join(fitting))
    if config.train.adapter is None or config.train.adapter.dropout:
        raise UsageError("learning from rewards trains an adapter without dropout", got=str(config.train.adapter))
    if getattr(objective, "COSTS", False) != (cost is not None):
        raise UsageError(f"the {name} loss and a cost go together", expected="both or neither")
    if not cases:
        raise DataError("no prompts to learn on", expected="at least one case")


def _gold(drawn: Drawn, gold: Reward | None, number: int, config: RLConfig, together: Processes) -> dict[str, float]:
    if gold is None or number % config.gold_every:
        return {}
    samples = drawn.samples
    values = together.divided(len(samples), lambda part: checked(gold, samples[part.start : part.stop]))
    return spread("gold", scores(values))


def _halted(state: State, config: RLConfig) -> bool:
    return bool(state.alarms) and config.monitor.action != "warn"


def _settle(out: Path, learner: Learner, state: State, config: RLConfig) -> tuple[str, int]:
    """How the run ended and whose weights it leaves; after a rollback the policy has the kept ones."""
    last = len(state.history) - 1
    if not _halted(state, config):
        return "finished", last
    if config.monitor.action == "stop":
        return "stopped", last
    onset = min(a.onset for a in state.alarms)
    rounds = [int(p.stem) for p in (out / KEPT).glob("*.pt")]
    back_to = max(r for r in rounds if r < onset)
    kept = torch.load(out / KEPT / f"{back_to}.pt", weights_only=True)
    with torch.no_grad():
        for name, p in learner.policy.items():
            p.copy_(kept[name])
    return "rolled back", back_to


def _keep(out: Path, number: int, policy: Mapping[str, Tensor]) -> None:
    values = {name: p.detach().cpu() for name, p in policy.items()}
    _checkpoint.write_atomic(out / KEPT / f"{number}.pt", lambda handle: torch.save(values, handle))


def _save(out: Path, key: str, learner: Learner, state: State, seconds: float) -> None:
    found = snapshot(key, learner.params(), learner.optimizer, state.history, state.tokens, seconds)
    _checkpoint.save(out, {**found, "state": state.pack()})


def _resumed(found: Mapping[str, Any], learner: Learner) -> State:
    tokens, history = restore(found, learner.params(), learner.optimizer)
    known = dict(found["state"])
    known["alarms"] = [Alarm(**a) for a in known["alarms"]]
    return State(tokens=tokens, history=history, **known)


def _say_errors(drawn: Drawn, number: int) -> None:
    if drawn.errored:
        first = next(e for e in drawn.errors if e is not None)
        LOG.warning(
            "round %d: the reward failed for %d of %d answers, the first: %s",
            number + 1,
            drawn.errored,
            len(drawn.samples),
            first,
        )


def _write_samples(out: Path, number: int, drawn: Drawn) -> None:
    """Keep a round's answers with their rewards, so that an alarm can be looked into."""
    rows = [
        {"case": s.case.id, "answer": s.text, "ended": s.ended, "reward": r, **({"error": e} if e else {})}
        for s, r, e in zip(drawn.samples, drawn.proxy(), drawn.errors or [None] * len(drawn.samples), strict=True)
    ]
    lines = b"".join(_checkpoint.line(row) for row in rows)
    _checkpoint.write_atomic(out / "rounds" / f"{number:05d}.jsonl", lambda handle: handle.write(lines))


def _record(
    out: Path,
    key: str,
    model: WhiteBox,
    cases: Sequence[Case],
    config: RLConfig,
    state: State,
    about: Mapping[str, Any],
) -> None:
    """Write the run's record, and drop its checkpoint."""
    record: dict[str, Any] = {
        "key": key,
        "model": model.fingerprint,
        "model_name": model.name,
        "config": plain(config),
        "prompts": {"digest": digest(list(cases)), "n": len(cases)},
        **about,
        "alarms": plain(state.alarms),
        "tokens": state.tokens,
        "history": state.history,
    }
    _checkpoint.write_json(out / RECORD, record)
    _checkpoint.drop(out)


def finished(out: Path, key: str) -> RLResult | None:
    """The result of this very run if it is already done. Another run's result in `out` raises TrainingError."""
    record = _checkpoint.read_json(out / RECORD)
    if record is None:
        return None
    _checkpoint.check_key(out, record["key"], key)
    return _result(out, record)


def _result(out: Path, record: Mapping[str, Any]) -> RLResult:
    return RLResult(
        path=out / record["path"],
        record=out / RECORD,
        key=record["key"],
        history=tuple(record["history"]),
        alarms=tuple(Alarm(**a) for a in record["alarms"]),
        ended=record["ended"],
        weights_of=record["weights_of"],
        tokens=record["tokens"],
        seconds=record["seconds"],
    )
