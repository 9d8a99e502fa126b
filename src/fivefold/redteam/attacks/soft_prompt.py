"""Soft prompt: free vectors after the request, optimised so that the answer opens as wanted; for open weights only.

Defensive use: measures whether what a model was taught not to say can still be said, when the attacker holds the
weights and is not bound to words: an upper bound for every suffix search, and a test of unlearning. Source: Schwinn
et al. 2024, "Soft Prompt Threats" (arXiv 2402.09063): signed gradient descent on the embeddings of appended tokens.

Deviations: the answer is generated greedily from the vectors by the open model itself, past any guard that stands
before it, which each attempt says; no text reproduces it, so a replay of its findings is unscored.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fivefold.errors import UsageError
from fivefold.redteam.attacks._text import _judged, request, succeeded
from fivefold.redteam.attacks.gcg import TARGETS, open_model
from fivefold.redteam.cost import BACKWARD, searched
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.runtime.protocol import Capability, Cost, Model, WhiteBox
from fivefold.types import Case, Completion, Errored, Taxonomy, Usage


class SoftPrompt:
    """`budget.steps` steps; the vectors are tested when they first match the target and, evenly, while queries last."""

    name = "soft_prompt"
    needs = frozenset({Capability.GENERATE, Capability.GRADIENTS})
    taxonomy = Taxonomy(
        surface="embeddings", technique="embedding-space attack", owasp=("LLM01:2025",), atlas=("AML.T0043.000",)
    )

    def __init__(self, length: int = 20, rate: float = 0.001) -> None:
        if length < 1 or rate <= 0:
            raise UsageError("soft_prompt: length and rate must be positive", got=(length, rate))
        self.length, self.rate = length, rate

    def cost(self, budget: AttackBudget, *, prompt_tokens: int, behaviours: int) -> Cost:
        """A forward and a backward pass over the conversation with its vectors a step."""
        a_step = (1 + BACKWARD) * (prompt_tokens + self.length)
        return searched(budget, prompt_tokens, a_step=a_step, behaviours=behaviours)

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt a test until one succeeds or the budget is spent. A loss that is not finite ends the
        attack with an Errored attempt."""
        import torch

        model = open_model(target, for_="attack soft_prompt")
        soft = _Soft(model, case, self.length)
        started = time.monotonic()
        used, matched = 0, False
        for step in range(budget.steps + 1):
            loss, match, slope = soft.loss()
            late = budget.seconds is not None and time.monotonic() - started >= budget.seconds
            last = step == budget.steps or late
            if not bool(torch.isfinite(loss)):
                yield self._attempt(case, target, model, None, judge, budget, step, float("nan"))
                return
            due = last or (match and not matched) or step * budget.queries >= (used + 1) * budget.steps
            matched |= match
            if due and used < budget.queries:
                used += 1
                tokens = soft.answer(budget.max_new_tokens)
                attempt = self._attempt(case, target, model, tokens, judge, budget, step, float(loss))
                yield replace(attempt, tokens=attempt.tokens + soft.spent())
                if succeeded(attempt):
                    return
            if last or used >= budget.queries:
                return
            soft.vectors = (soft.vectors - self.rate * slope.sign()).detach()

    def _attempt(
        self,
        case: Case,
        target: Model,
        model: WhiteBox,
        tokens: list[int] | None,
        judge: Judge,
        budget: AttackBudget,
        step: int,
        loss: float,
    ) -> Attempt:
        asked = request(case, case.prompt, budget)
        notes: dict[str, Any] = {
            "step": step,
            "check": {"kind": "open_weights"},
            "past_guards": target.fingerprint != model.fingerprint,
        }
        if tokens is None:
            broken = Errored(error=f"soft_prompt: the loss is not finite at step {step}")
            return Attempt(
                case_id=case.id,
                attack=self.name,
                messages=asked.messages,
                completion=None,
                outcome=broken,
                queries=0,
                metadata=notes,
            )
        text = str(model.tokenizer.decode(tokens, skip_special_tokens=True))
        completion = Completion(
            text=text, model=model.fingerprint, tokens=tuple(tokens), usage=Usage(completion=len(tokens))
        )
        return Attempt(
            case_id=case.id,
            attack=self.name,
            messages=asked.messages,
            completion=completion,
            outcome=_judged(case, asked, completion, judge),
            tokens=len(tokens),
            loss=loss,
            metadata=notes,
        )


class _Soft:
    """The conversation as embeddings: `before`, the free vectors [n, W], `after`, and the goal's ids."""

    def __init__(self, model: WhiteBox, case: Case, length: int) -> None:
        import torch

        from fivefold.redteam._gcg_prompt import SuffixPrompt

        goal = str(case.metadata.get("target_text") or TARGETS.get(case.language, TARGETS["en"]))
        prompt = SuffixPrompt(model, case, " ".join(["x"] * length), goal)
        self.module: Any = model.module
        self.embed: Any = self.module.get_input_embeddings()
        device = self.embed.weight.device
        self.goal = torch.tensor(prompt.goal, device=device)
        with torch.no_grad():
            self.before, self.vectors, self.after, self.wanted = (
                self.embed(torch.tensor(ids, device=device, dtype=torch.long))
                for ids in (prompt.before, prompt.start, prompt.after, prompt.goal)
            )
        self.stops = {int(i) for i in _stops(model)}
        self.tokens = 0

    def spent(self) -> int:
        """Tokens that went through the model since this was asked last, those of the answer left out."""
        tokens, self.tokens = self.tokens, 0
        return tokens

    def loss(self) -> tuple[Any, bool, Any]:
        """Mean nats of a goal token, whether greedy decoding says the goal, and the gradient [n, W]."""
        import torch
        import torch.nn.functional as F

        with torch.enable_grad():
            free = self.vectors.detach().requires_grad_()
            row = torch.cat([self.before, free, self.after, self.wanted[:-1]])[None]
            logits = self.module(inputs_embeds=row, use_cache=False).logits[0, -len(self.goal) :].float()
            loss = F.cross_entropy(logits, self.goal)
            (slope,) = torch.autograd.grad(loss, free)
        self.tokens += row.shape[1]
        return loss.detach(), bool((logits.argmax(dim=-1) == self.goal).all()), slope

    def answer(self, limit: int) -> list[int]:
        """Greedy tokens after the vectors."""
        import torch

        tokens: list[int] = []
        with torch.no_grad():
            row: Any = torch.cat([self.before, self.vectors, self.after])[None]
            self.tokens += row.shape[1]
            past = None
            while len(tokens) < limit:
                out = self.module(inputs_embeds=row, past_key_values=past, use_cache=True)
                token = int(out.logits[0, -1].argmax())
                if token in self.stops:
                    break
                tokens.append(token)
                past, row = out.past_key_values, self.embed(torch.tensor([[token]], device=self.goal.device))
        return tokens


def _stops(model: WhiteBox) -> list[int]:
    config = getattr(model.module, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        ids = model.tokenizer.eos_token_id
    return [i for i in (ids if isinstance(ids, list) else [ids]) if i is not None]


def attack(length: int = 20, rate: float = 0.001) -> SoftPrompt:
    """`length` free vectors, moved by `rate` along the gradient's sign."""
    return SoftPrompt(length, rate)
