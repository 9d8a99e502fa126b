"""Online DPO: sample answers, let the reward pick the best and the worst of each prompt, and take a DPO step on them.

    L = - mean_prompts log sigmoid( beta ( h_best - h_worst ) ),   h_y = log pi(y|x) - log pi_ref(y|x), summed over tokens

Sign: minimised. Reduction: mean over prompts that have a best and a worst answer; a prompt whose rewards are all equal is
left out (0 loss when none is left). `advantages` marks the best answer +1, the worst -1, others 0. The paper samples two
answers and asks an LLM which is better; with G > 2 the extremes are taken. TRL's OnlineDPOTrainer has G = 2. Source: Guo
et al. 2024 (arXiv:2402.04792), algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fivefold.align.losses._base import Kind, LossOutput, Reduction, preference_metrics
from fivefold.align.losses._rollout import Rollout, Sampled, informative
from fivefold.errors import UsageError

KIND: Kind = "rollout"
REDUCTION: Reduction = "item"
REFERENCE = True
LEAST_SAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of online DPO."""

    beta: float = 0.1
    """Strength of the tie to the reference."""


def advantages(sampled: Sampled, config: Config) -> Tensor:
    """+1 at the tokens of each group's best answer, -1 at its worst one's, [N, T]."""
    rewards, scored = sampled.rewards, sampled.scored
    best = torch.where(scored, rewards, -torch.inf).argmax(1, keepdim=True)
    worst = torch.where(scored, rewards, torch.inf).argmin(1, keepdim=True)
    marks = torch.zeros_like(rewards).scatter(1, best, 1.0).scatter(1, worst, -1.0)
    return sampled.over_tokens(marks * informative(rewards, scored)[:, None])


def loss(rollout: Rollout, config: Config) -> LossOutput:
    """DPO loss of the marked answers, which come in pairs of one group."""
    if rollout.reference is None:
        raise UsageError("online DPO compares with a reference model, and the samples carry no reference values")
    reward = config.beta * ((rollout.logps - rollout.reference) * rollout.mask).sum(-1)
    mark = rollout.advantages[:, 0]
    chosen, rejected = ((mark == sign).nonzero()[:, 0] for sign in (1.0, -1.0))
    if not len(chosen):
        return LossOutput(reward.sum() * 0.0, {})
    chosen, rejected = (i[rollout.group[i].argsort()] for i in (chosen, rejected))
    margin = reward[chosen] - reward[rejected]
    prompts = len(torch.unique(rollout.group))
    return LossOutput(-logsigmoid(margin).sum() / prompts, preference_metrics(reward[chosen], reward[rejected]))
