"""A causal LM as training sees it: log-probabilities of packed answers, with logits only where an answer is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fivefold.align._lower import Lower
from fivefold.align._pack import Item, Row, pack
from fivefold.errors import TrainingError
from fivefold.runtime._attention import NAME
from fivefold.runtime._plan import attending

T = TypeVar("T")
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


def read_head(module: Any, hidden: Tensor, want: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability (nats, float32 [R]) of `want` [R] at final hidden states `hidden` [R, D].

    Logits are divided by `temperature`, as they are when samples are drawn at it.
    """
    head = module.get_output_embeddings()
    config = module.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logits_scaling", None) or getattr(config, "logit_scale", None)
    plain = isinstance(head, nn.Linear) and head.bias is None and not (softcap or scale)
    if plain and not head.weight.requires_grad:
        scaled = hidden if temperature == 1.0 else hidden / temperature
        return cast(Tensor, _LinearLogProb.apply(scaled, head.weight, want))  # type: ignore[no-untyped-call]
    if scale:
        raise TrainingError(
            f"{type(module).__name__} scales its logits in a way that training does not know",
            next_step="train a model whose head is a linear layer, with or without soft-capping",
        )
    parts = []
    for start in range(0, len(want), CHUNK):
        part = slice(start, start + CHUNK)
        parts.append(checkpoint(_logp, head, hidden[part], want[part], softcap, temperature, use_reentrant=False))
    return torch.cat(parts)


def _logp(head: nn.Module, hidden: Tensor, want: Tensor, softcap: float | None, temperature: float) -> Tensor:
    logps = (_logits(head, hidden, softcap) / temperature).log_softmax(-1)
    return logps.gather(-1, want[:, None]).squeeze(-1)


def _logits(head: nn.Module, hidden: Tensor, softcap: float | None) -> Tensor:
    logits = cast(Tensor, head(hidden)).float()
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def divergence(module: Any, hidden: Tensor, reference: Tensor) -> Tensor:
    """KL(pi_ref || pi) in nats, float32 [R], of the next-token distributions at final hidden states [R, D].

    Both models share the head. Computed in chunks, and again in the backward pass, so that few logits exist at a time.
    """
    head = module.get_output_embeddings()
    softcap = getattr(module.config.get_text_config(), "final_logit_softcapping", None)
    parts = []
    for start in range(0, len(hidden), CHUNK):
        part = slice(start, start + CHUNK)
        parts.append(checkpoint(_divergence, head, hidden[part], reference[part], softcap, use_reentrant=False))
    return torch.cat(parts)


def _divergence(head: nn.Module, hidden: Tensor, reference: Tensor, softcap: float | None) -> Tensor:
    q, p = (_logits(head, x, softcap).log_softmax(-1) for x in (hidden, reference))
    return (p.exp() * (p - q)).sum(-1)


def answer_logps(module: Any, row: Row, stream: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Log-probability of every answer token of a packed row, [R] float32, with gradients if enabled."""

    def logps() -> Tensor:
        hidden = answer_states(module, row, stream)
        return read_head(module, hidden, row.want.to(hidden.device), temperature)

    return entered(module, logps)


def entered(module: Any, compute: Callable[[], T]) -> T:
    """`compute()`, with what `module` has outside its layers at hand where its weights are split (`_sharded`).

    Tensors of a tuple that comes out carry the gradient back in.
    """
    return cast(T, module.within(compute)) if is_split(module) else compute()


def is_split(module: Any) -> bool:
    """Whether the weights of a causal LM are split over processes, which then have to pass as many rows, in step."""
    return hasattr(module, "within")


def answer_states(module: Any, row: Row, stream: Tensor | None = None) -> Tensor:
    """Final hidden states [R, D] from which each answer token of a packed row is predicted.

    `module` attends through the runtime's packed attention (`packed_copy`, `trainable_copy`). `stream` [T, D] stands in
    for the embeddings where the lower layers' output is known already (`_lower`).
    """
    if module.config._attn_implementation != NAME:
        raise TrainingError(
            "a packed row needs the runtime's attention",
            expected=NAME,
            got=module.config._attn_implementation,
            next_step="make the module with packed_copy or trainable_copy",
        )
    device = module.get_input_embeddings().weight.device
    with attending(row.plan()):
        given = {"input_ids": row.tokens[None].to(device)} if stream is None else {"inputs_embeds": stream[None]}
        out = module.base_model(**given, position_ids=row.depth[None].to(device), use_cache=False)
        hidden = out.last_hidden_state[0]
    return cast(Tensor, hidden[row.read.to(device)])


@torch.no_grad()
def check_packing(
    module: Any, items: Sequence[Item], plain: Any, lower: Lower | None = None, dtype: torch.dtype | None = None
) -> None:
    """Raise TrainingError unless `module` gives in a packed row what `plain` gives one sequence at a time.

    `dtype`: what `module` computes in, where that is not its weights'.
    """
    row = pack(items)
    packed = answer_logps(module, row, lower(items, row) if lower else None)
    apart = torch.cat(
        [_plain(plain, i.prompt, answer)[list(i.marks(k))] for i in items for k, answer in enumerate(i.answers)]
    )
    off = (packed.cpu() - apart.cpu()).abs()
    # half precision rounds single tokens away by a quarter of a nat and more; what reads the wrong tokens is off in most
    apart_by, most = (off.max(), 1e-3) if (dtype or module.dtype) == torch.float32 else (off.mean(), 0.1)
    if apart_by > most:
        raise TrainingError(
            f"{type(module).__name__} does not give the same log-probabilities in a packed row",
            expected="attention in every layer, at given positions, through the registered attention function",
            got=f"a difference of {float(apart_by):.3g} nats",
            next_step="set reuse_frozen=False" if lower else None,
        )


def _plain(module: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    device = module.get_input_embeddings().weight.device
    ids = torch.tensor([prompt + answer[:-1]], device=device)
    logits = module(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].float()
    return cast(Tensor, logits.log_softmax(-1).gather(-1, torch.tensor(answer, device=device)[:, None])[:, 0])
