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
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fivefold.align import _checkpoint, _ranges
from fivefold.align._adapter import Lora, causal_lm, packed_copy, save_trained, trainable, trainable_copy
from fivefold.align._loop import TrainConfig, checkpoint_due, diverged, learning_rate, restore, seeded, snapshot
from fivefold.align._lower import Lower, first_trained, lifted
from fivefold.align._pack import Item, pack, rows_of
from fivefold.align._policy import answer_logps, check_packing
from fivefold.align._processes import one_process
from fivefold.align._ray import RayConfig, RaySampler
from fivefold.align._rollouts import Drawn, Draws, Sampler, collect, copy_of, mask_of, padded
from fivefold.align._scalar import Scalar
from fivefold.align._vllm import VLLMSampler
from fivefold.align.kl import KLControl, next_weight
from fivefold.align.losses import ppo_value
from fivefold.align.losses._base import config_of, load
from fivefold.align.losses._rollout import Rollout, Sampled
from fivefold.align.monitor import Alarm, MonitorConfig, alarms, health_of, spread
from fivefold.align.rewards import Reward, checked, scores
from fivefold.align.sinks import check_sinks, opened
from fivefold.align.train import run_key, score
from fivefold.errors import DataError, TrainingError, UsageError
from fivefold.registry import registry
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.types import Case, digest, plain

RECORD = "reinforcement.json"
LOG = logging.getLogger("fivefold.align")
KEPT = "kept"
MOST_GAP = 0.3
"""Nats a token by which a server's log-probabilities may be off on average: more is another model, not its precision."""


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


@dataclass
class _State:
    """What the next round depends on beside weights and optimiser."""

    drawn: int = 0
    kl: float = 0.0
    multiplier: float = 0.0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)

    def pack(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "kl": self.kl, "multiplier": self.multiplier, "alarms": plain(self.alarms)}


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
    same weights. Raises UsageError for an objective of another kind, DataError without prompts, TrainingError when the
    loss is no longer finite, when no rewards differ, or when `out` belongs to another run.
    """
    settings, objective = config.train, load(config.train.loss)
    check_run(model, cases, config, objective, cost)
    options = config_of(objective, settings.loss_options)
    identity = plain(replace(config, train=replace(settings, log_to=(), gradient_checkpointing=False)))
    key = digest([run_key(model, digest(list(cases)), settings, start), identity, reward_name, str(critic_start)])
    if (done := finished(out, key)) is not None:
        return done
    began = time.monotonic()
    with seeded(settings.seed):
        learner = _Learner(model, config, objective, options, start, critic_start, out)
        state = _State(kl=config.kl.weight, multiplier=getattr(options, "start", 0.0))
        if (found := _checkpoint.load(out, key)) is not None:
            state = _resumed(found, learner)
            began -= found["seconds"]
        elif config.monitor.action == "rollback":
            _keep(out, -1, learner.policy)
        kept = time.monotonic()
        with opened(settings.log_to, out, key[:16], len(state.history)) as watching, closing(learner.sampler):
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
                )
                _say_errors(drawn, number)
                health = {"round": float(number), **learner.learn(drawn, state, number)}
                health |= _gold(drawn, gold, number, config)
                health["seconds"] = time.monotonic() - began
                _write_samples(out, number, drawn)
                state.history.append(health)
                for sink in watching:
                    sink.write(number + 1, health)
                state.alarms += alarms(state.history, config.monitor)
                if config.monitor.action == "rollback" and (number + 1) % config.keep_every == 0:
                    _keep(out, number, learner.policy)
                if checkpoint_due(number, config.rounds, time.monotonic() - kept, settings):
                    _save(out, key, learner, state, time.monotonic() - began)
                    kept = time.monotonic()
                if on_round:
                    on_round(number + 1, config.rounds, health)
        ended, weights_of = _settle(out, learner, state, config)
        path = save_trained(learner.trained, out)
    return _finish(
        out, path, key, model, cases, config, reward_name, state, ended, weights_of, time.monotonic() - began
    )


class _Learner:
    """Policy, reference, critic and optimiser, and one round's learning."""

    def __init__(
        self,
        model: WhiteBox,
        config: RLConfig,
        objective: ModuleType,
        options: Any,
        start: Path | None,
        critic_start: Path | None,
        out: Path,
    ) -> None:
        self.config, self.objective, self.options = config, objective, options
        settings = config.train
        again, adapter = settings.gradient_checkpointing, None if start else settings.adapter
        self.trained = trainable_copy(model.module, adapter, start, checkpointing=again)
        self.module, self.policy = causal_lm(self.trained), trainable(self.trained)
        before = packed_copy(model.module) if start is None else causal_lm(trainable_copy(model.module, None, start))
        self.reference = before.requires_grad_(False) if start is not None else before
        self.critic = None
        if getattr(objective, "CRITIC", False):
            self.critic = Scalar.fresh(model.module, config.critic, 1, critic_start, checkpointing=again)
        trained = [self.module, *([] if self.critic is None else [causal_lm(self.critic.trained)])]
        self.stacked = [*trained, self.reference]
        self.lower: Lower | None = None
        self.first = min(map(first_trained, trained)) if settings.reuse_frozen else 0
        self.sampler = self._sampler(model, out)
        probe = [Item(prompt=tuple(model.encode("a b c d")), answers=((1, 2), (1, 3)))]
        check_packing(packed_copy(model.module), probe, model.module)
        groups: list[dict[str, Any]] = [{"params": list(self.policy.values()), "base": settings.lr}]
        if self.critic is not None:
            groups.append({"params": list(self.critic.parameters().values()), "base": config.critic_lr})
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )

    def _sampler(self, model: WhiteBox, out: Path) -> Draws:
        config = self.config
        how: dict[str, Any] = {
            "samples": config.samples,
            "limit": config.max_new_tokens,
            "temperature": config.temperature,
            "seed": config.train.seed,
        }
        if config.vllm is not None:
            return VLLMSampler(model, self.trained, config.vllm, out / "served", **how)
        if config.ray.workers:
            return RaySampler(model, self.trained, config.ray, **how)
        return Sampler(model, self.module, copied=copy_of(self.trained, model.module), **how)

    def params(self) -> dict[str, torch.nn.Parameter]:
        """Everything that is trained, by name."""
        critic = {} if self.critic is None else {f"critic/{n}": p for n, p in self.critic.parameters().items()}
        return {**self.policy, **critic}

    def learn(self, drawn: Drawn, state: _State, number: int) -> dict[str, float]:
        """Take this round's optimiser steps; returns the round's numbers."""
        settings = self.config.train
        scale = learning_rate(number, self.config.rounds, replace(settings, lr=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * scale
        with lifted(self.stacked, drawn.items, self.first, settings.row_tokens) as self.lower:
            known = self._known(drawn, state)
            advantages = self.objective.advantages(known, self.options)
            returns = None
            if self.critic is not None and known.values is not None:
                returns = self.objective.estimates(known, self.options) + known.values
            metrics = [
                self._step(drawn, chosen, known, advantages, returns, state, number)
                for chosen in self._minibatches(len(drawn.items), number)
            ]
        health = {"loss": metrics[0]["loss"], "prompts_asked": float(drawn.asked)}
        health |= {k: _average([m[k] for m in metrics if k in m]) for m in metrics for k in m if k != "loss"}
        return (
            health | health_of(drawn.samples, drawn.proxy(), drawn.errored) | self._after(drawn, known, state, metrics)
        )

    def _known(self, drawn: Drawn, state: _State) -> Sampled:
        """What is fixed in this round. The sampler's log-probabilities are read off the first step where that is the
        only one, and then absent (zero) here."""
        limit, heat = self.config.train.row_tokens, self.config.temperature
        mask = mask_of(drawn.items)

        def scores(module: Any) -> Tensor:
            found = score(module, drawn.items, limit, self.lower, temperature=heat)
            return padded([answer for of_item in found for answer in of_item])

        return Sampled(
            rewards=drawn.rewards,
            scored=drawn.scored,
            old=torch.zeros(mask.shape) if self._single_step(len(drawn.items)) else scores(self.module),
            mask=mask,
            reference=scores(self.reference),
            values=None if self.critic is None else padded(self.critic.values_of(drawn.items, limit, self.lower)),
            kl=state.kl if getattr(self.objective, "KL_IN_REWARD", False) or self.critic is not None else 0.0,
            costs=drawn.costs,
            multiplier=state.multiplier,
        )

    def _single_step(self, prompts: int) -> bool:
        """Whether the samples are used in one step, from the weights that drew them."""
        settings = self.config.train
        early = getattr(self.objective, "KL_IN_REWARD", False) or self.critic is not None
        return not early and settings.epochs == 1 and settings.batch_items >= prompts

    def _minibatches(self, n: int, number: int) -> Iterator[list[int]]:
        settings = self.config.train
        for epoch in range(settings.epochs):
            order = list(range(n))
            random.Random(f"{settings.seed}/{number}/{epoch}").shuffle(order)
            yield from (order[i : i + settings.batch_items] for i in range(0, n, settings.batch_items))

    def _step(
        self,
        drawn: Drawn,
        chosen: list[int],
        known: Sampled,
        advantages: Tensor,
        returns: Tensor | None,
        state: _State,
        number: int,
    ) -> dict[str, float]:
        """One optimiser step on the prompts `chosen`."""
        settings, totals = self.config.train, {"loss": 0.0}
        by_token = self.objective.REDUCTION == "token"
        weight = {b: sum(map(len, drawn.items[b].answers)) if by_token else 1 for b in chosen}
        for places in rows_of([drawn.items[b] for b in chosen], settings.row_tokens):
            prompts = [chosen[p] for p in places]
            share = sum(weight[b] for b in prompts) / sum(weight.values())
            for name, value in self._row(drawn, prompts, known, advantages, returns, share, state).items():
                totals[name] = totals.get(name, 0.0) + value * share
        norm = float(torch.nn.utils.clip_grad_norm_(self.policy.values(), settings.grad_clip))
        if self.critic is not None:
            torch.nn.utils.clip_grad_norm_(self.critic.parameters().values(), settings.grad_clip)
        if not (math.isfinite(totals["loss"]) and math.isfinite(norm)):
            raise diverged(number, totals["loss"], norm, state.history)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {**totals, "grad_norm": norm}

    def _row(
        self,
        drawn: Drawn,
        prompts: list[int],
        known: Sampled,
        advantages: Tensor,
        returns: Tensor | None,
        share: float,
        state: _State,
    ) -> dict[str, float]:
        """Add the gradient of one packed row of prompts with their answers."""
        items, n = [drawn.items[b] for b in prompts], self.config.samples
        at = torch.tensor([b * n + g for b in prompts for g in range(n)])
        row, mask = pack(items), mask_of(items)
        width = mask.shape[1]
        stream = self.lower(items, row) if self.lower else None
        flat = answer_logps(self.module, row, stream, self.config.temperature).cpu()
        logps = padded([flat[part] for of_item in row.answers for part in of_item])
        if self._single_step(len(drawn.items)):
            known.old[at, :width] = logps.detach()
        rollout = Rollout(
            logps=logps,
            old=known.old[at, :width],
            mask=mask,
            advantages=advantages[at, :width],
            group=at // n,
            length=self.config.max_new_tokens,
            reference=None if known.reference is None else known.reference[at, :width],
        )
        output = self.objective.loss(rollout, self.options)
        (output.loss * share).backward()
        state.tokens += len(row.tokens)
        found = {"loss": output.loss.item(), **output.metrics}
        if self.critic is not None and returns is not None and known.values is not None:
            values = self.critic.values(row, stream)[:, 0].cpu()
            values = padded([values[part] for of_item in row.answers for part in of_item])
            options = ppo_value.Config(clip=self.config.critic_clip)
            of_critic = ppo_value.loss(values, known.values[at, :width], returns[at, :width], mask, options)
            (of_critic.loss * share).backward()  # type: ignore[no-untyped-call]
            found |= of_critic.metrics
        return found

    def _after(self, drawn: Drawn, known: Sampled, state: _State, metrics: list[dict[str, float]]) -> dict[str, float]:
        """Divergence and entropy of the policy that sampled; moves the penalty's weight and the multiplier on."""
        kl = known.token_kl().sum(-1).mean().item()
        entropy = -(known.old * known.mask).sum().item() / int(known.mask.sum())
        found = {"kl": kl, "entropy": entropy, "kl_weight": state.kl, **self._gap(drawn, known)}
        state.drawn += drawn.asked
        state.kl = next_weight(state.kl, kl, len(drawn.samples), self.config.kl)
        if drawn.costs is not None and drawn.scored.any():
            cost = drawn.costs[drawn.scored].mean().item()
            found |= {"cost": cost, "multiplier": state.multiplier}
            if hasattr(self.objective, "next_multiplier"):
                state.multiplier = self.objective.next_multiplier(state.multiplier, cost, self.options)
        return found

    def _gap(self, drawn: Drawn, known: Sampled) -> dict[str, float]:
        """By how much a server's log-probabilities differ from ours, nats a token. Only temperature 1 can be compared:
        vLLM gives log-probabilities before the temperature."""
        given = [s.logps for s in drawn.samples]
        if self.config.temperature != 1.0 or any(g is None for g in given):
            return {}
        theirs = padded([torch.tensor(g) for g in given])
        gap = ((theirs - known.old) * known.mask).abs().sum().item() / int(known.mask.sum())
        if gap > MOST_GAP:
            raise TrainingError(
                "the server that draws the samples does not serve this policy",
                expected=f"log-probabilities within {MOST_GAP} nats a token of the trainer's",
                got=f"{gap:.2f} nats",
                next_step="serve the very model that is trained, and let the server see the adapters' folder",
            )
        return {"sampler_gap": gap}


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def check_run(
    model: WhiteBox, cases: Sequence[Case], config: RLConfig, objective: ModuleType, cost: Reward | None
) -> None:
    """Raise an error that says what is missing before anything is computed."""
    require(model, Capability.GRADIENTS, for_="learning from rewards")
    one_process("learning from rewards")
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


def _gold(drawn: Drawn, gold: Reward | None, number: int, config: RLConfig) -> dict[str, float]:
    if gold is None or number % config.gold_every:
        return {}
    return spread("gold", scores(checked(gold, drawn.samples)))


def _halted(state: _State, config: RLConfig) -> bool:
    return bool(state.alarms) and config.monitor.action != "warn"


def _settle(out: Path, learner: _Learner, state: _State, config: RLConfig) -> tuple[str, int]:
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


def _save(out: Path, key: str, learner: _Learner, state: _State, seconds: float) -> None:
    found = snapshot(key, learner.params(), learner.optimizer, state.history, state.tokens, seconds)
    _checkpoint.save(out, {**found, "state": state.pack()})


def _resumed(found: Mapping[str, Any], learner: _Learner) -> _State:
    tokens, history = restore(found, learner.params(), learner.optimizer)
    known = dict(found["state"])
    known["alarms"] = [Alarm(**a) for a in known["alarms"]]
    return _State(tokens=tokens, history=history, **known)


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


def _finish(
    out: Path,
    path: Path,
    key: str,
    model: WhiteBox,
    cases: Sequence[Case],
    config: RLConfig,
    reward_name: str,
    state: _State,
    ended: str,
    weights_of: int,
    seconds: float,
) -> RLResult:
    record: dict[str, Any] = {
        "key": key,
        "model": model.fingerprint,
        "model_name": model.name,
        "config": plain(config),
        "reward": reward_name,
        "prompts": {"digest": digest(list(cases)), "n": len(cases)},
        "path": path.name,
        "ended": ended,
        "weights_of": weights_of,
        "alarms": plain(state.alarms),
        "tokens": state.tokens,
        "seconds": round(seconds, 2),
        "history": state.history,
    }
    _checkpoint.write_json(out / RECORD, record)
    _checkpoint.drop(out)
    return _result(out, record)


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
