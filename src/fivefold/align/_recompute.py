"""Gradient checkpointing: a decoder layer keeps its input alone and is computed again in the backward pass.

Instead of all that a layer's operations keep, one vector of the model's width a token and layer is held, and the inside of
one layer at a time; the price is a second forward pass. Losses and gradients are those without it, dropout included (the
random numbers are put back). Layers are found by structure, so any model that can be packed can be checkpointed, and what
asks for no gradient (reference passes, sampling) is not touched. Source: Chen et al. 2016 (arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from fivefold.runtime._plan import Plan, attending, open_plan
from fivefold.runtime._structure import decoder_layers


def recompute(module: Any) -> None:
    """Have every decoder layer of `module` computed again in the backward pass."""
    for layer in decoder_layers(module):
        layer.forward = partial(_forward, layer.forward)


def _forward(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    plan = open_plan()
    found = checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, plan), **kwargs)
    if plan is not None:
        plan.forget()
    return found


def _contexts(plan: Plan | None) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Around a layer's two passes: by the second, the plan of who sees whom is closed, perhaps on another thread."""
    return nullcontext(), nullcontext() if plan is None else _reopened(plan)


@contextmanager
def _reopened(plan: Plan) -> Iterator[None]:
    with attending(plan):
        try:
            yield
        finally:
            plan.forget()
