"""DPO with a likelihood term on the chosen answer, so the model learns to say it and not only to prefer it.

    L = mean_n [ - log sigmoid( beta * (h_w - h_l) )  -  alpha * log pi(y_w|x) / |y_w| ]

with h as in `dpo`. Sign: minimised. Reduction: mean over pairs; the likelihood term is the mean over the tokens of
each chosen answer. Differences: the paper's NLL term also divides by the length of the prompt and answer together (its
equation 1 trains on reasoning and answer); TRL's `rpo_alpha` takes the mean over all chosen tokens of the batch, which
weighs long answers more. With alpha = 0 this is DPO. Source: Pang et al. 2024 (Iterative Reasoning Preference
Optimization, arXiv:2404.19733), section 2, equation 1; the same objective is called RPO by Liu et al. 2024
(arXiv:2405.16436), who show that the likelihood term guards against over-optimisation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction, preference_metrics

KIND: Kind = "pair"
REDUCTION: Reduction = "item"
REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the RPO loss."""

    beta: float = 0.1
    """As in DPO."""
    alpha: float = 1.0
    """Weight of the likelihood of the chosen answer."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """DPO plus alpha times the chosen answers' negative log-likelihood per token."""
    reward_w, reward_l = config.beta * chosen.log_ratio(), config.beta * rejected.log_ratio()
    nll = -chosen.mean()
    value = (-logsigmoid(reward_w - reward_l) + config.alpha * nll).mean()
    return LossOutput(value, {**preference_metrics(reward_w, reward_l), "nll": nll.detach().mean().item()})
