"""Group relative policy optimisation: PPO's clip without a critic; an answer is compared with others to its prompt.

    L = - mean_n mean_t [ min( r_t A_n, clip(r_t, 1 - eps, 1 + eps) A_n ) - beta ( pi_ref/pi - log pi_ref/pi - 1 )_t ]
    A_n = ( R_n - mean_group R ) / ( std_group R + 1e-4 )

with r_t as in `ppo` and the KL penalty in the loss, not in the reward. Sign: minimised. Reduction: mean over answers of
the mean over each answer's tokens (TRL's `loss_type="grpo"`; its default is now `dapo`). The standard deviation divides
by n - 1, as in TRL. Source: Shao et al. 2024 (DeepSeekMath, arXiv:2402.03300), equations 3 and 4.

Where implementations differ: with `unbiased_kl` the penalty is multiplied by r_t, as TRL does by default since it has
`use_bias_correction_kl`. On fresh samples r_t is 1, so the loss is the same number; its gradient is not, since r_t is
differentiated: that of the plain penalty is not the gradient of a KL divergence, that of r_t times it is, in expectation.
Source: DeepSeek-AI 2025 (DeepSeek-V3.2, arXiv:2512.02556).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fivefold.align.losses._base import Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import (
    Rollout,
    Sampled,
    clipped,
    group_advantages,
    mean_of_answers,
    mean_of_tokens,
    rollout_metrics,
)

KIND: Kind = "rollout"
REDUCTION: Reduction = "item"
REFERENCE = True
LEAST_SAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of GRPO."""

    clip: float = 0.2
    """eps: how far the ratio may leave 1 before its gradient stops."""
    beta: float = 0.04
    """Weight of the KL divergence from the reference (0.04 in the paper)."""
    unbiased_kl: bool = False
    """Multiply the KL penalty by the ratio, so that its gradient is unbiased (DeepSeek-V3.2; the default of TRL)."""


def advantages(sampled: Sampled, config: Config) -> Tensor:
    """Rewards normalised within each group, at every token [N, T]."""
    return sampled.over_tokens(group_advantages(sampled.rewards, sampled.scored, scale=True))


def loss(rollout: Rollout, config: Config) -> LossOutput:
    """GRPO loss."""
    ratio, kl = rollout.log_ratio().exp(), rollout.kl_to_reference()
    penalty = ratio * kl if config.unbiased_kl else kl
    gain = clipped(ratio, rollout.advantages, config.clip, config.clip) - config.beta * penalty
    metrics = rollout_metrics(rollout, ratio, config.clip, config.clip)
    kl_mean = mean_of_tokens(kl.detach(), rollout.mask).item()
    return LossOutput(-mean_of_answers(gain, rollout.mask), {**metrics, "kl_token": kl_mean})
