"""What a loss takes and gives: log-probabilities of answers in, one scalar and plain numbers out.

Shapes: N answers (or pairs), T tokens of the longest answer. A loss never sees a model, so every one can be held
against its paper's formula with a dozen numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from fivefold.errors import UnknownNameError, UsageError
from fivefold.registry import registry

Kind: TypeAlias = Literal["single", "pair", "unpaired"]
"""What one item of the data is: a demonstrated answer, a chosen and a rejected answer, or an answer with a label."""

Reduction: TypeAlias = Literal["item", "token", "batch"]
"""Over what the loss is a mean, hence how parts of a batch add up: items, answer tokens, or not at all (`batch`)."""


@dataclass(frozen=True)
class Answers:
    """Log-probabilities (nats) of N answers, given their prompts.

    `logps` [N, T] is zero where `mask` [N, T] is False. `reference` [N, T] are the same under the reference model,
    where a loss needs one. `label` [N] marks desirable answers (True) for losses of kind `unpaired`.
    """

    logps: Tensor
    mask: Tensor
    reference: Tensor | None = None
    label: Tensor | None = None

    @property
    def n_tokens(self) -> Tensor:
        """Answer tokens, [N]."""
        return self.mask.sum(-1)

    def total(self) -> Tensor:
        """log pi(y|x): the sum over tokens, [N]."""
        return (self.logps * self.mask).sum(-1)

    def mean(self) -> Tensor:
        """log pi(y|x) / |y|, [N]."""
        return self.total() / self.n_tokens

    def log_ratio(self) -> Tensor:
        """log pi(y|x) - log pi_ref(y|x), [N]."""
        if self.reference is None:
            raise UsageError("this loss compares with a reference model, and the answers carry no reference values")
        return ((self.logps - self.reference) * self.mask).sum(-1)

    def __getitem__(self, index: Any) -> Answers:
        reference = None if self.reference is None else self.reference[index]
        label = None if self.label is None else self.label[index]
        return Answers(self.logps[index], self.mask[index], reference, label)


@dataclass(frozen=True)
class LossOutput:
    """`loss`: a scalar to minimise. `metrics`: plain numbers to watch, detached, means over items unless said."""

    loss: Tensor
    metrics: Mapping[str, float]


def load(name: str) -> ModuleType:
    """The loss module called `name`: it has KIND, REDUCTION, REFERENCE, Config and `loss`."""
    return registry("loss").module(name)


def config_of(module: ModuleType, options: Mapping[str, Any]) -> Any:
    """The module's frozen Config from options; an unknown option is refused, the nearest suggested."""
    known = {f.name for f in fields(module.Config)}
    for key in options:
        if key not in known:
            raise UnknownNameError(f"option of loss {module.__name__.rsplit('.', 1)[-1]}", key, known)
    return module.Config(**options)


def preference_metrics(chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """Metrics of implicit rewards [N] of chosen and rejected answers: means, margin, and how often chosen wins."""
    margin = (chosen - rejected).detach()
    return {
        "reward_chosen": chosen.detach().mean().item(),
        "reward_rejected": rejected.detach().mean().item(),
        "margin": margin.mean().item(),
        "accuracy": (margin > 0).to(torch.float32).mean().item(),
    }
