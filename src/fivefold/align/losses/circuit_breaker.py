"""Circuit breaking by representation rerouting: turn harmful states away from what they were, keep the others.

    L = c_s mean_tokens(harmful) relu( cos( h, h_0 ) )  +  c_r mean_tokens(benign) || h - h_0 ||_2
    c_s = alpha ( 1 - p ),   c_r = alpha p,   p = share of the training done, halved

with h the trained and h_0 the original residual stream at chosen layers. Sign: minimised; at least 0. Reduction: mean
over tokens (and layers, stacked as rows). Rerouted states are orthogonal to the original, so that whatever attack
reached them, no harmful answer follows. Source: Zou et al. 2024 (arXiv:2406.04313), algorithm 1; the paper's code runs p
from 0 to 1/2 over the training, as here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import cosine_similarity

from fivefold.align.losses._base import Activations, Kind, LossOutput, Reduction
from fivefold.align.losses._rollout import mean_of_tokens

KIND: Kind = "activations"
REDUCTION: Reduction = "token"
REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of circuit breaking."""

    alpha: float = 10.0
    """Weight of both terms."""


def loss(harmful: Activations, benign: Activations, config: Config, *, progress: float = 0.0) -> LossOutput:
    """Rerouting loss on harmful and retain loss on benign states; `progress` in [0, 1] is how far training is."""
    turned = cosine_similarity(harmful.trained, harmful.original, dim=-1)
    reroute = mean_of_tokens(turned.relu(), harmful.mask)
    retain = mean_of_tokens((benign.trained - benign.original).norm(dim=-1), benign.mask)
    p = progress / 2
    value = config.alpha * ((1 - p) * reroute + p * retain)
    return LossOutput(value, {"reroute": reroute.item(), "retain": retain.item()})
