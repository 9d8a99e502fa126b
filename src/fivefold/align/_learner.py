"""Learning from rewards, one round's part: policy, reference, critic and optimiser, and the steps on a round's samples.

In several processes each computes its share of the prompts, or of a step's packed rows, and all have all numbers; the
gradients of a step are added up. What differs from one process is the order of sums. `rl.reinforce` is the loop around it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fivefold.align._adapter import causal_lm, packed_copy, trainable, trainable_copy
from fivefold.align._loop import diverged, learning_rate
from fivefold.align._lower import Lower, first_trained, lifted
from fivefold.align._pack import Item, pack, rows_of
from fivefold.align._policy import answer_logps, check_packing
from fivefold.align._processes import ALONE, Processes
from fivefold.align._ray import RaySampler
from fivefold.align._rollouts import Drawn, Draws, Sampler, Told, copy_of, mask_of, padded
from fivefold.align._scalar import Scalar
from fivefold.align._vllm import VLLMSampler
from fivefold.align.kl import next_weight
from fivefold.align.losses import ppo_value
from fivefold.align.losses._rollout import Rollout, Sampled
from fivefold.align.monitor import Alarm, health_of
from fivefold.align.train import score
from fivefold.errors import TrainingError
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import plain

if TYPE_CHECKING:
    from fivefold.align.rl import RLConfig

MOST_GAP = 0.3
"""Nats a token by which a server's log-probabilities may be off on average: more is another model, not its precision."""


@dataclass
class State:
    """What the next round depends on beside weights and optimiser."""

    drawn: int = 0
    kl: float = 0.0
    multiplier: float = 0.0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)

    def pack(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the history and the count of tokens."""
        return {"drawn": self.drawn, "kl": self.kl, "multiplier": self.multiplier, "alarms": plain(self.alarms)}


class Learner:
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
        together: Processes = ALONE,
    ) -> None:
        self.config, self.objective, self.options, self.together = config, objective, options, together
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
        if (address := config.vllm) is not None:
            return Told(lambda: VLLMSampler(model, self.trained, address, out / "served", **how), config, self.together)
        if config.ray.workers:
            return Told(lambda: RaySampler(model, self.trained, config.ray, **how), config, self.together)
        copied = copy_of(self.trained, model.module)
        return Sampler(model, self.module, copied=copied, together=self.together, **how)

    def params(self) -> dict[str, torch.nn.Parameter]:
        """Everything that is trained, by name."""
        critic = {} if self.critic is None else {f"critic/{n}": p for n, p in self.critic.parameters().items()}
        return {**self.policy, **critic}

    def learn(self, drawn: Drawn, state: State, number: int) -> dict[str, float]:
        """Take this round's optimiser steps; returns the round's numbers."""
        settings = self.config.train
        scale = learning_rate(number, self.config.rounds, replace(settings, lr=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * scale
        # one of several processes keeps what it meets
        known_below = drawn.items if self.together.size == 1 else []
        with lifted(self.stacked, known_below, self.first, settings.row_tokens) as self.lower:
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

    def _known(self, drawn: Drawn, state: State) -> Sampled:
        """What is fixed in this round. The sampler's log-probabilities are read off the first step where that is the
        only one, and then absent (zero) here."""
        limit, heat = self.config.train.row_tokens, self.config.temperature
        mask, critic = mask_of(drawn.items), self.critic

        def scores(module: Any) -> Tensor:
            def of(part: range) -> list[list[Tensor]]:
                return score(module, drawn.items[part.start : part.stop], limit, self.lower, temperature=heat)

            found = self.together.divided(len(drawn.items), of)
            return padded([answer for of_item in found for answer in of_item])

        def values(critic: Scalar) -> Tensor:
            def of(part: range) -> list[Tensor]:
                return critic.values_of(drawn.items[part.start : part.stop], limit, self.lower)

            return padded(self.together.divided(len(drawn.items), of))

        return Sampled(
            rewards=drawn.rewards,
            scored=drawn.scored,
            old=torch.zeros(mask.shape) if self._single_step(len(drawn.items)) else scores(self.module),
            mask=mask,
            reference=scores(self.reference),
            values=None if critic is None else values(critic),
            kl=state.kl if getattr(self.objective, "KL_IN_REWARD", False) or critic is not None else 0.0,
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
        state: State,
        number: int,
    ) -> dict[str, float]:
        """One optimiser step on the prompts `chosen`."""
        settings, totals, together = self.config.train, {"loss": 0.0}, self.together
        by_token = self.objective.REDUCTION == "token"
        weight = {b: sum(map(len, drawn.items[b].answers)) if by_token else 1 for b in chosen}
        places = rows_of([drawn.items[b] for b in chosen], settings.row_tokens)
        rows = [[chosen[p] for p in row] for row in places]
        share = [sum(weight[b] for b in row) / sum(weight.values()) for row in rows]
        mine = together.mine([sum(drawn.items[b].n_tokens for b in row) for row in rows])
        own = {r: self._row(drawn, rows[r], known, advantages, returns, share[r]) for r in mine}
        for part, (metrics, tokens) in zip(share, together.gathered(own), strict=True):
            state.tokens += tokens
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0.0) + value * part
        if self._single_step(len(drawn.items)):
            self._exchange(known.old, [b for r in mine for b in rows[r]])
        together.add_up(self.params())
        norm = float(torch.nn.utils.clip_grad_norm_(self.policy.values(), settings.grad_clip))
        if self.critic is not None:
            torch.nn.utils.clip_grad_norm_(self.critic.parameters().values(), settings.grad_clip)
        if not (math.isfinite(totals["loss"]) and math.isfinite(norm)):
            raise diverged(number, totals["loss"], norm, state.history)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {**totals, "grad_norm": norm}

    def _exchange(self, old: Tensor, prompts: Sequence[int]) -> None:
        """Fill `old` [N, T], of which this process knows the answers to `prompts`, from all."""
        if self.together.size > 1:
            n = self.config.samples
            old.copy_(torch.cat(self.together.gathered({b: old[b * n : (b + 1) * n].clone() for b in prompts})))

    def _row(
        self,
        drawn: Drawn,
        prompts: list[int],
        known: Sampled,
        advantages: Tensor,
        returns: Tensor | None,
        share: float,
    ) -> tuple[dict[str, float], int]:
        """Add the gradient of one packed row of prompts with their answers; returns its metrics and its tokens."""
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
        found = {"loss": output.loss.item(), **output.metrics}
        if self.critic is not None and returns is not None and known.values is not None:
            values = self.critic.values(row, stream)[:, 0].cpu()
            values = padded([values[part] for of_item in row.answers for part in of_item])
            options = ppo_value.Config(clip=self.config.critic_clip)
            of_critic = ppo_value.loss(values, known.values[at, :width], returns[at, :width], mask, options)
            (of_critic.loss * share).backward()  # type: ignore[no-untyped-call]
            found |= of_critic.metrics
        return found, len(row.tokens)

    def _after(self, drawn: Drawn, known: Sampled, state: State, metrics: list[dict[str, float]]) -> dict[str, float]:
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
