"""Token-level DPO: DPO with the forward KL divergence of every token kept in hand.

    L = - mean_n log sigmoid( u - alpha d )
    u = beta (h_w - h_l),   d = beta ( D(y_l) - sg[ D(y_w) ] ),   D(y) = sum_t KL( pi_ref(.|x, y_<t) || pi(.|x, y_<t) )

with h as in `dpo` and sg the stop-gradient. This is TDPO2, the paper's recommended form; `detach=False` with alpha 1 is
TDPO1. Sign: minimised; log 2 where the policy is the reference. Reduction: mean over pairs, sums over tokens. KL is over
the whole vocabulary, so logits of both models are needed at answer tokens. TRL does not have it. Source: Zeng et al. 2024
(arXiv:2404.11999), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from fivefold.align.losses._base import Answers, Kind, LossOutput, Reduction, preference_metrics
from fivefold.errors import UsageError

KIND: Kind = "pair"
REDUCTION: Reduction = "item"
REFERENCE = True
TOKEN_KL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the token-level DPO loss."""

    beta: float = 0.1
    """Strength of the tie to the reference."""
    alpha: float = 0.5
    """Weight of the difference of divergences."""
    detach: bool = True
    """Let no gradient flow through the chosen answer's divergence (TDPO2)."""


def loss(chosen: Answers, rejected: Answers, config: Config) -> LossOutput:
    """TDPO loss of N pairs that carry `kl`."""
    reward_w, reward_l = config.beta * chosen.log_ratio(), config.beta * rejected.log_ratio()
    kl_w, kl_l = _sequence_kl(chosen), _sequence_kl(rejected)
    difference = config.beta * (kl_l - (kl_w.detach() if config.detach else kl_w))
    value = -logsigmoid(reward_w - reward_l - config.alpha * difference).mean()
    kl = {"kl_chosen": kl_w.detach().mean().item(), "kl_rejected": kl_l.detach().mean().item()}
    return LossOutput(value, {**preference_metrics(reward_w, reward_l), **kl})


def _sequence_kl(answers: Answers) -> Tensor:
    if answers.kl is None:
        raise UsageError("token-level DPO needs the divergence from the reference at every answer token")
    return (answers.kl * answers.mask).sum(-1)
