"""What a loss takes and gives: log-probabilities of answers in, one scalar and plain numbers out.

Shapes: N answers (or pairs), T tokens of the longest answer. A loss never sees a model, so every one can be held
against its paper's formula with a dozen numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from fivefold.errors import UnknownNameError, UsageError
from fivefold.registry import registry

Kind: TypeAlias = Literal[
    "single", "pair", "unpaired", "scores", "steps", "rollout", "values", "activations", "distributions"
]
"""What a loss takes. Log-probabilities of answers: a demonstrated answer (`single`), a chosen and a rejected one (`pair`),
an answer with a label (`unpaired`), sampled answers with advantages (`rollout`). Outputs of a scalar head: at the last
tokens of a pair (`scores`), at the ends of reasoning steps (`steps`), at every token (`values`). Or a model's inside:
`activations`, next-token `distributions`. The argument types stand in this file and in `_rollout`."""

FIXED_DATA: frozenset[Kind] = frozenset({"single", "pair", "unpaired"})
"""Kinds that `align.train` trains on items of given answers."""

Reduction: TypeAlias = Literal["item", "token", "batch"]
"""Over what the loss is a mean, hence how parts of a batch add up: items, answer tokens, or not at all (`batch`)."""


@dataclass(frozen=True)
class Answers:
    """Log-probabilities (nats) of N answers, given their prompts.

    `logps` [N, T] is zero where `mask` [N, T] is False. `reference` [N, T] are the same under the reference model,
    where a loss needs one. `label` [N] marks desirable answers (True) for losses of kind `unpaired`. `kl` [N, T] is
    KL(pi_ref || pi) of the next-token distributions at each answer token, for losses with `TOKEN_KL`.
    """

    logps: Tensor
    mask: Tensor
    reference: Tensor | None = None
    label: Tensor | None = None
    kl: Tensor | None = None

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
        rest = [None if x is None else x[index] for x in (self.reference, self.label, self.kl)]
        return Answers(self.logps[index], self.mask[index], *rest)


@dataclass(frozen=True)
class Scores:
    """Outputs [N, K] of a scalar head with K members at the last token of N answers, in the unit of the reward.

    `margin` [N] is by how much the chosen answer should win, where the data says so. `unsafe` [N] marks answers that
    are harmful in themselves, for cost models.
    """

    values: Tensor
    margin: Tensor | None = None
    unsafe: Tensor | None = None


@dataclass(frozen=True)
class Activations:
    """Residual streams [N, T, D] of the trained model and of the original one at the same tokens; mask [N, T]."""

    trained: Tensor
    original: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Distributions:
    """Next-token logits [N, T, V] of student and teacher at the same positions; mask [N, T]."""

    student: Tensor
    teacher: Tensor
    mask: Tensor


@dataclass(frozen=True)
class LossOutput:
    """`loss`: a scalar to minimise. `metrics`: plain numbers to watch, detached, means over items unless said."""

    loss: Tensor
    metrics: Mapping[str, float]


def load(name: str) -> ModuleType:
    """The loss module called `name`: it has KIND, REDUCTION, REFERENCE, Config and `loss` (and `advantages`, if it learns
    from samples)."""
    return registry("loss").module(name)


def config_of(module: ModuleType, options: Mapping[str, Any]) -> Any:
    """The module's frozen Config from options; an unknown option is refused, the nearest suggested."""
    known = {f.name for f in fields(module.Config)}
    for key in options:
        if key not in known:
            raise UnknownNameError(f"option of loss {module.__name__.rsplit('.', 1)[-1]}", key, known)
    for key, value in options.items():
        _check_option(module, key, value)
    return module.Config(**options)


def _check_option(module: ModuleType, key: str, value: Any) -> None:
    """Raise UsageError for a value of another type, or a number below 0 that is not one of the module's SIGNED."""
    kind = get_type_hints(module.Config)[key]
    least = -math.inf if key in getattr(module, "SIGNED", ()) else 0
    if get_origin(kind) is Literal:
        fits, expected = value in get_args(kind), " or ".join(get_args(kind))
    elif kind is bool:
        fits, expected = isinstance(value, bool), "true or false"
    else:
        number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        fits = number and math.isfinite(value) and value >= least
        expected = ("a whole number" if kind is int else "a number") + ("" if least else ", not below 0")
    if not fits:
        raise UsageError(f"{key} of this loss does not take this value", expected=expected, got=repr(value))


def preference_metrics(chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """Metrics of implicit rewards [N] of chosen and rejected answers: means, margin, and how often chosen wins."""
    margin = (chosen - rejected).detach()
    return {
        "reward_chosen": chosen.detach().mean().item(),
        "reward_rejected": rejected.detach().mean().item(),
        "margin": margin.mean().item(),
        "accuracy": (margin > 0).to(torch.float32).mean().item(),
    }
