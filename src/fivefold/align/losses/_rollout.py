"""What losses over sampled answers share: the arguments, the importance ratio, the clip, means, baselines.

Shapes: B prompts, G samples of each, N = B·G answers in that order, T tokens of the longest answer. A policy-gradient
loss here has two pure parts: `advantages(sampled, config)` turns rewards into a weight for every token, once per round
of sampling and without gradient; `loss(rollout, config)` is minimised, perhaps several times, on those tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fivefold.errors import UsageError


@dataclass(frozen=True)
class Sampled:
    """A round of samples as advantages are computed from it; no tensor has a gradient.

    `rewards` [B, G] with `scored` [B, G] False where a reward function gave none (the value is then not read). `old`,
    `reference`, `values` [N, T] are log-probabilities under the policy that sampled and under the reference, and the
    critic's values before each token; zero where `mask` [N, T] is False. `kl` is the weight of the KL penalty in the
    reward (nats to reward). `costs` [B, G] and `multiplier` serve constrained objectives.
    """

    rewards: Tensor
    scored: Tensor
    old: Tensor
    mask: Tensor
    reference: Tensor | None = None
    values: Tensor | None = None
    kl: float = 0.0
    costs: Tensor | None = None
    multiplier: float = 0.0

    def token_kl(self) -> Tensor:
        """log pi_old - log pi_ref of each sampled token, [N, T]: unbiased for KL(pi_old || pi_ref) in sum."""
        if self.reference is None:
            return torch.zeros_like(self.old)
        return (self.old - self.reference) * self.mask

    def kept(self) -> Tensor:
        """Whether an answer has a reward, [N]."""
        return self.scored.flatten()

    def shaped(self) -> Tensor:
        """Rewards [B, G] less the KL penalty of the whole answer."""
        return self.rewards - self.kl * self.token_kl().sum(-1).view_as(self.rewards)

    def over_tokens(self, advantages: Tensor) -> Tensor:
        """One advantage per answer [B, G] at each of its tokens [N, T]; zero where the answer has no reward."""
        return torch.where(self.scored, advantages, 0.0).flatten()[:, None] * self.mask


@dataclass(frozen=True)
class Rollout:
    """Sampled answers as a loss sees them. `logps` [N, T] carries the gradient; the rest is fixed.

    `group` [N] numbers the prompt of each answer. `length` is the longest answer that could have been sampled.
    """

    logps: Tensor
    old: Tensor
    mask: Tensor
    advantages: Tensor
    group: Tensor
    length: int
    reference: Tensor | None = None

    def log_ratio(self) -> Tensor:
        """log pi - log pi_old of each token, [N, T]; 0 at padding."""
        return (self.logps - self.old) * self.mask

    def kl_to_reference(self) -> Tensor:
        """The k3 estimate of KL(pi || pi_ref) of each token, [N, T]: r - log r - 1 with r = pi_ref / pi, at least 0.

        Schulman 2020, "Approximating KL divergence"; equation 4 of Shao et al. 2024 (arXiv:2402.03300).
        """
        if self.reference is None:
            raise UsageError("this loss compares with a reference model, and the samples carry no reference values")
        log_r = (self.reference - self.logps) * self.mask
        return torch.expm1(log_r) - log_r


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """PPO's pessimistic objective, to maximise: min(r A, clip(r, 1 - low, 1 + high) A)."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def mean_of_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over all tokens of all answers: a long answer weighs more."""
    return (x * mask).sum() / mask.sum()


def mean_of_answers(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over answers of the mean over their tokens: every answer weighs the same."""
    return ((x * mask).sum(-1) / mask.sum(-1)).mean()


def rollout_metrics(rollout: Rollout, ratio: Tensor, low: float, high: float) -> dict[str, float]:
    """Share of clipped ratios, and the k3 estimate of KL(pi_old || pi) a token, detached."""
    with torch.no_grad():
        log_ratio, mask = rollout.log_ratio(), rollout.mask
        outside = (ratio < 1 - low) | (ratio > 1 + high)
        share = outside.float().mean() if ratio.dim() == 1 else mean_of_tokens(outside.float(), mask)
        moved = mean_of_tokens(torch.expm1(log_ratio) - log_ratio, mask)
    return {"clipped": share.item(), "kl_old": moved.item()}


def scored_mean(values: Tensor, scored: Tensor) -> Tensor:
    """Mean of each group's scored values, [B, 1]; 0 for a group without any."""
    n = scored.sum(1, keepdim=True)
    return torch.where(scored, values, 0.0).sum(1, keepdim=True) / n.clamp(min=1)


def group_advantages(values: Tensor, scored: Tensor, *, scale: bool, eps: float = 1e-4) -> Tensor:
    """Values [B, G] less their group's mean, divided by its standard deviation (with n - 1) + eps when `scale`."""
    centred = torch.where(scored, values - scored_mean(values, scored), 0.0)
    if not scale:
        return centred
    n = scored.sum(1, keepdim=True)
    std = (centred.square().sum(1, keepdim=True) / (n - 1).clamp(min=1)).sqrt()
    return centred / (std + eps)


def leave_one_out(values: Tensor, scored: Tensor) -> Tensor:
    """Values [B, G] less the mean of the other scored ones of their group; 0 where there is no other."""
    n = scored.sum(1, keepdim=True)
    centred = torch.where(scored, values - scored_mean(values, scored), 0.0)
    return centred * n / (n - 1).clamp(min=1)


def whitened(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Values [N, T] with mean 0 and variance 1 (with n - 1) over the tokens of `mask`, 0 elsewhere."""
    n = mask.sum()
    mean = (values * mask).sum() / n
    variance = ((values - mean).square() * mask).sum() / (n - 1).clamp(min=1)
    return (values - mean) * torch.rsqrt(variance + eps) * mask


def token_rewards(sampled: Sampled) -> Tensor:
    """Reward of each token, [N, T]: - kl (log pi_old - log pi_ref), and the answer's reward at its last token.

    Ziegler et al. 2019 (arXiv:1909.08593), equation 2, with the penalty at the token where it arises as in InstructGPT.
    """
    rewards = -sampled.kl * sampled.token_kl()
    last = sampled.mask.sum(-1) - 1
    final = torch.where(sampled.scored, sampled.rewards, 0.0).flatten()
    return rewards.scatter_add(1, last[:, None], final[:, None].to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates [N, T]: A_t = delta_t + gamma lam A_t+1, delta_t = r_t + gamma V_t+1 - V_t.

    V is 0 after the last token. Schulman et al. 2015 (arXiv:1506.02438), equation 16.
    """
    advantages, later = torch.zeros_like(rewards), rewards.new_zeros(len(rewards))
    following = torch.zeros_like(later)
    for t in range(rewards.shape[1] - 1, -1, -1):
        inside = mask[:, t]
        delta = rewards[:, t] + gamma * following - values[:, t]
        later = torch.where(inside, delta + gamma * lam * later, 0.0)
        following = torch.where(inside, values[:, t], 0.0)
        advantages[:, t] = later
    return advantages


def informative(rewards: Tensor, scored: Tensor) -> Tensor:
    """Groups [B] whose scored rewards differ, so that there is something to learn: DAPO's dynamic sampling keeps these.

    Yu et al. 2025 (arXiv:2503.14476), equation 11.
    """
    low = torch.where(scored, rewards, torch.inf).amin(1)
    high = torch.where(scored, rewards, -torch.inf).amax(1)
    return (scored.sum(1) > 1) & (high > low)


def process_advantages(steps: Tensor, ends: Tensor, mask: Tensor, groups: int, eps: float = 1e-4) -> Tensor:
    """Advantages [N, T] from a reward for each reasoning step: the sum of the normalised rewards of steps still to end.

    `steps` [N, S] are rewards, `ends` [N, S] the token at which each step ends, -1 for none; rewards are normalised over
    all steps of a prompt's samples (`groups` = G samples a prompt). Shao et al. 2024 (arXiv:2402.03300), section 4.1.3.
    """
    there = (ends >= 0).view(-1, groups * ends.shape[1])
    normal = group_advantages(steps.view(there.shape), there, scale=True, eps=eps).view_as(steps)
    at = torch.zeros(mask.shape, dtype=steps.dtype).scatter_add(1, ends.clamp(min=0), normal * (ends >= 0))
    return at.flip(1).cumsum(1).flip(1) * mask
