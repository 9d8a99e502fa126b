"""Latent attack: a small change of the residual stream, optimised so that the answer opens as wanted; for open weights only.

Defensive use: measures how far inside a model refusal can be pushed over, and whether training that only changed what is
said left the capability where it was; latent adversarial training trains against exactly this. Sources: Casper et al. 2024,
"Defending Against Unforeseen Failure Modes with Latent Adversarial Training" (arXiv 2403.05030), and Sheshadri et al. 2024,
"Latent Adversarial Training Improves Robustness to Persistent Harmful Behaviors in LLMs" (arXiv 2407.15549): projected
gradient descent on hidden states within an L2 ball, towards a wanted answer.

Deviations: one vector a layer, added at every position of prompt and answer, where the papers change each prompt position
apart, so that what is optimised is an ordinary intervention of the runtime that any later tool can apply; the ball's radius
is a share of the layer's own mean norm over the prompt, so that one `bound` fits every model and layer.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fivefold.errors import ModelError, UsageError
from fivefold.redteam.attacks._text import request, send, succeeded
from fivefold.redteam.attacks.gcg import TARGETS, open_model
from fivefold.redteam.cost import BACKWARD, searched
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.runtime.protocol import Capability, Cost, Intervention, Model, WhiteBox
from fivefold.types import Case, Errored, Taxonomy

DEPTHS = (0.25, 0.5)
"""Where the stream is changed when no layers are named, as shares of the depth."""


class Latent:
    """`budget.steps` steps; the vectors are tested when they first match the target and, evenly, while queries last."""

    name = "latent"
    needs = frozenset({Capability.GENERATE, Capability.GRADIENTS, Capability.INTERVENTIONS})
    taxonomy = Taxonomy(
        surface="activations", technique="latent perturbation", owasp=("LLM01:2025",), atlas=("AML.T0043.000",)
    )

    def __init__(self, layers: Sequence[int] = (), bound: float = 0.1, rate: float = 0.1) -> None:
        if bound <= 0 or not 0 < rate <= 1:
            raise UsageError(
                "latent: bound or rate is out of range", expected="bound > 0, 0 < rate <= 1", got=f"{bound}, {rate}"
            )
        self.layers, self.bound, self.rate = tuple(layers), bound, rate

    def cost(self, budget: AttackBudget, *, prompt_tokens: int, behaviours: int) -> Cost:
        """A forward and a backward pass over the conversation a step."""
        return searched(budget, prompt_tokens, a_step=(1 + BACKWARD) * prompt_tokens, behaviours=behaviours)

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt a test until one succeeds or the budget is spent. A loss that is not finite ends the
        attack with an Errored attempt."""
        model = open_model(target, for_="attack latent")
        ball = _Ball(model, case, self.layers or _at_depths(model), self.bound)
        started = time.monotonic()
        used, matched = 0, False
        for step in range(budget.steps + 1):
            loss, match, slopes = ball.loss()
            if not math.isfinite(loss):
                yield self._broken(case, budget, step)
                return
            late = budget.seconds is not None and time.monotonic() - started >= budget.seconds
            last = step == budget.steps or late
            due = last or (match and not matched) or step * budget.queries >= (used + 1) * budget.steps
            matched |= match
            if due and used < budget.queries:
                used += 1
                attempt = self._test(case, target, model, ball, judge, budget, step, loss)
                yield replace(attempt, tokens=attempt.tokens + ball.spent())
                if succeeded(attempt):
                    return
            if last or used >= budget.queries:
                return
            ball.move(slopes, self.rate)

    def _test(
        self,
        case: Case,
        target: Model,
        model: WhiteBox,
        ball: _Ball,
        judge: Judge,
        budget: AttackBudget,
        step: int,
        loss: float,
    ) -> Attempt:
        altered = model.with_interventions(ball.interventions())
        notes = {
            "step": step,
            "layers": list(ball.layers),
            "shares": ball.shares(),
            "bound": self.bound,
            "altered": altered.fingerprint,
            "check": {"kind": "open_weights"},
            "past_guards": target.fingerprint != model.fingerprint,
        }
        (attempt,) = send(case, self.name, altered, judge, budget, [request(case, case.prompt, budget)], [notes])
        return replace(attempt, loss=loss)

    def _broken(self, case: Case, budget: AttackBudget, step: int) -> Attempt:
        return Attempt(
            case_id=case.id,
            attack=self.name,
            messages=request(case, case.prompt, budget).messages,
            completion=None,
            outcome=Errored(error=f"latent: the loss is not finite at step {step}"),
            queries=0,
            metadata={"step": step, "check": {"kind": "open_weights"}},
        )


class _Ball:
    """One vector a layer, each within `bound` × the mean norm of that layer's residual stream over the prompt.

    `vectors` is [layers, D], `radius` [layers]. The stream is changed by hooks of its own while the loss is computed, and
    by the runtime's interventions when the answer is generated: the same sum at the same place.
    """

    def __init__(self, model: WhiteBox, case: Case, layers: Sequence[int], bound: float) -> None:
        import torch

        if unknown := [i for i in layers if not 0 <= i < model.n_layers]:
            raise UsageError("latent: the model has no such layer", expected=f"0 … {model.n_layers - 1}", got=unknown)
        self.model, self.module, self.layers = model, model.module, tuple(dict.fromkeys(layers))
        self.ids, self.goal = _encoded(model, case)
        with torch.no_grad(), self._read() as streams:
            self.module(self._row()[:, : len(self.ids)], use_cache=False)
        self.norms = torch.stack([streams[i][0, 1:].float().norm(dim=-1).mean() for i in self.layers])
        self.radius = bound * self.norms
        self.vectors = torch.zeros(len(self.layers), model.d_model, device=self.norms.device)
        self.tokens = len(self.ids)

    def spent(self) -> int:
        """Tokens of the search that went through the model since this was asked last."""
        tokens, self.tokens = self.tokens, 0
        return tokens

    def loss(self) -> tuple[float, bool, Any]:
        """Mean nats of a goal token, whether greedy decoding says the goal, and the gradient [layers, D]."""
        import torch
        import torch.nn.functional as F

        free = self.vectors.detach().requires_grad_()
        with torch.enable_grad(), self._added(free):
            logits = self.module(self._row()[:, :-1], use_cache=False).logits[0, -len(self.goal) :].float()
            goal = torch.tensor(self.goal, device=logits.device)
            loss = F.cross_entropy(logits, goal)
            (slopes,) = torch.autograd.grad(loss, free)
        self.tokens += len(self.ids) + len(self.goal) - 1
        return float(loss.detach()), bool((logits.argmax(dim=-1) == goal).all()), slopes

    def move(self, slopes: Any, rate: float) -> None:
        """A step of `rate` × radius down each layer's gradient, then back into the ball."""
        import torch

        unit = slopes / slopes.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        moved = self.vectors - rate * self.radius[:, None] * unit
        too_long = (moved.norm(dim=-1) / self.radius).clamp_min(1.0)
        self.vectors = torch.nan_to_num(moved / too_long[:, None])

    def interventions(self) -> list[Intervention]:
        """The vectors as interventions of the runtime."""
        return [
            Intervention(kind="add", layer=layer, vector=tuple(map(float, vector)))
            for layer, vector in zip(self.layers, self.vectors, strict=True)
        ]

    def shares(self) -> list[float]:
        """Norm of each vector as a share of the layer's mean norm."""
        return [round(float(x), 4) for x in self.vectors.norm(dim=-1) / self.norms]

    def _row(self) -> Any:
        import torch

        device = self.module.get_input_embeddings().weight.device
        return torch.tensor([[*self.ids, *self.goal]], device=device)

    @contextmanager
    def _read(self) -> Iterator[dict[int, Any]]:
        """The residual stream after the layers, by layer."""
        streams: dict[int, Any] = {}

        def keep(layer: int) -> Any:
            return lambda module, args, output: streams.__setitem__(layer, _stream(output))

        with self._hooked({i: keep(i) for i in self.layers}):
            yield streams

    @contextmanager
    def _added(self, vectors: Any) -> Iterator[None]:
        """The vectors added after their layers."""

        def add(vector: Any) -> Any:
            def hook(module: Any, args: Any, output: Any) -> Any:
                changed = _stream(output) + vector.to(_stream(output))
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            return hook

        with self._hooked({layer: add(vectors[i]) for i, layer in enumerate(self.layers)}):
            yield

    @contextmanager
    def _hooked(self, hooks: dict[int, Any]) -> Iterator[None]:
        from fivefold.runtime._structure import decoder_layers

        blocks = decoder_layers(self.module)
        handles = [blocks[i].register_forward_hook(hook) for i, hook in hooks.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _stream(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _at_depths(model: WhiteBox) -> tuple[int, ...]:
    return tuple(dict.fromkeys(min(model.n_layers - 1, int(model.n_layers * d)) for d in DEPTHS))


def _encoded(model: WhiteBox, case: Case) -> tuple[list[int], list[int]]:
    """Ids of the conversation up to where the assistant speaks, and of the wanted opening."""
    goal = str(case.metadata.get("target_text") or TARGETS.get(case.language, TARGETS["en"]))
    ids = model.encode(case.messages)
    whole = model.encode(case.messages, prefill=goal)
    if whole[: len(ids)] != ids or len(whole) == len(ids):
        raise ModelError(
            f"the target text {goal!r} has no tokens of its own after the chat template",
            expected="a text whose first token does not merge with the end of the template",
            next_step="give the case another `target_text`",
        )
    return list(ids), list(whole[len(ids) :])


def attack(layers: Sequence[int] = (), bound: float = 0.1, rate: float = 0.1) -> Latent:
    """The attack on `layers` (0-based; two of the first half by default), within `bound` × the layer's mean norm, in steps
    of `rate` × that radius."""
    return Latent(layers, bound, rate)
