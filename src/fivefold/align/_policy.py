"""A causal LM as training sees it: log-probabilities of packed answers, with logits only where an answer is read."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fivefold.align._pack import Row
from fivefold.errors import TrainingError

CHUNK = 512
"""Positions whose vocabulary logits exist at one time."""


class _LinearLogProb(torch.autograd.Function):
    """log softmax(h W^T)[y] for a frozen W, chunk by chunk, without keeping logits for the backward pass.

    d logp / d h = W[y] - softmax(h W^T) W does not depend on what comes after, so it is computed in the forward
    pass, where the logits are at hand, and kept instead of them: D numbers a position in place of V.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, want: Tensor) -> Tensor:
        logps = torch.empty(len(want), dtype=torch.float32, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(want), CHUNK):
            part = slice(start, start + CHUNK)
            logits = (hidden[part] @ weight.T).float()
            norm = logits.logsumexp(-1, keepdim=True)
            logps[part] = (logits.gather(-1, want[part, None]) - norm).squeeze(-1)
            if slope is not None:
                probs = logits.sub_(norm).exp_().to(weight.dtype)
                slope[part] = weight[want[part]] - probs @ weight
        ctx.save_for_backward(slope)
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (slope,) = ctx.saved_tensors
        return None if slope is None else (grads[0][:, None].to(slope.dtype) * slope), None, None


def read_head(module: Any, hidden: Tensor, want: Tensor) -> Tensor:
    """Log-probability (nats, float32 [R]) of `want` [R] at final hidden states `hidden` [R, D]."""
    head = module.get_output_embeddings()
    config = module.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logits_scaling", None) or getattr(config, "logit_scale", None)
    plain = isinstance(head, nn.Linear) and head.bias is None and not (softcap or scale)
    if plain and not head.weight.requires_grad:
        return cast(Tensor, _LinearLogProb.apply(hidden, head.weight, want))  # type: ignore[no-untyped-call]
    if scale:
        raise TrainingError(
            f"{type(module).__name__} scales its logits in a way that training does not know",
            next_step="train a model whose head is a linear layer, with or without soft-capping",
        )
    parts = []
    for start in range(0, len(want), CHUNK):
        part = slice(start, start + CHUNK)
        parts.append(checkpoint(_logp, head, hidden[part], want[part], softcap, use_reentrant=False))
    return torch.cat(parts)


def _logp(head: nn.Module, hidden: Tensor, want: Tensor, softcap: float | None) -> Tensor:
    logits = head(hidden).float()
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return cast(Tensor, logits.log_softmax(-1).gather(-1, want[:, None]).squeeze(-1))


def answer_logps(module: Any, row: Row) -> Tensor:
    """Log-probability of every answer token of a packed row, [R] float32, with gradients if enabled."""
    device = module.get_input_embeddings().weight.device
    hidden = module.base_model(
        input_ids=row.tokens[None].to(device),
        attention_mask=_masks(module, row, device),
        position_ids=row.depth[None].to(device),
        use_cache=False,
    ).last_hidden_state[0]
    return read_head(module, hidden[row.read.to(device)], row.want.to(device))


def _masks(module: Any, row: Row, device: torch.device) -> Any:
    """The additive attention mask [1, 1, T, T], or one for each kind of attention layer where they differ."""
    config = module.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if len(kinds) == 1 and getattr(config, "sliding_window", None):
        kinds = {"sliding_attention"}
    masks = {}
    for kind in kinds:
        attend = row.attend
        if kind == "sliding_attention":
            attend = attend & (row.depth[:, None] - row.depth[None] < config.sliding_window)
        blocked = torch.finfo(module.dtype).min
        mask = torch.zeros(attend.shape, dtype=module.dtype).masked_fill_(~attend, blocked)
        masks[kind] = mask[None, None].to(device)
    return masks if len(masks) > 1 else masks.popitem()[1]


def check_trainable(module: Any) -> None:
    """Raise TrainingError unless every layer is attention that honours a mask of any shape."""
    implementation = module.config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise TrainingError(
            "packed rows need an attention that takes any mask",
            expected="sdpa or eager",
            got=implementation,
            next_step="load the model with attn_implementation='sdpa'",
        )
    kinds = set(getattr(module.config.get_text_config(), "layer_types", None) or [])
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise TrainingError(
            "packed rows need layers in which a token sees only what the mask shows it",
            expected="full_attention, sliding_attention",
            got=", ".join(sorted(kinds)),
        )
