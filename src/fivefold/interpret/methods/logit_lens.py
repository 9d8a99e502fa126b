"""What the model would say if it stopped at each layer: the final norm and the unembedding applied to the residual
stream.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens". The final norm is applied, as the model does. Early
layers need not speak the vocabulary of the last one, so early predictions show the basis as much as the belief (Belrose
et al. 2023, tuned lens, arXiv 2303.08112). The lens is checked against the model itself at the last layer before
anything is reported. Cost: one forward pass per prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fivefold.errors import CapabilityError, ModelError
from fivefold.interpret.protocol import MethodResult
from fivefold.runtime.protocol import Capability, Context, WhiteBox, require
from fivefold.types import Case

_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm", "norm_f", "ln_out")
TOLERANCE = 1e-2


@dataclass(frozen=True, kw_only=True)
class LensRow:
    """One prompt at one layer: the likeliest next tokens with their probabilities, and KL(last layer ‖ this one) in
    nats."""

    case: str
    layer: int
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    kl_to_last: float


def logit_lens(
    model: WhiteBox, contexts: Sequence[Context], *, top: int = 5, names: Sequence[str] = ()
) -> list[LensRow]:
    """Rows for every context and layer, at the last token of the context."""
    require(model, Capability.ACTIVATIONS, for_="the logit lens")
    if not contexts:
        return []
    stream = model.activations(contexts, layers=list(range(model.n_layers)), position="last")
    with torch.no_grad():
        log_p = _read(model.module, stream)
    _check(model, contexts[0], log_p[0, -1])
    rows = []
    for i in range(len(contexts)):
        name = names[i] if i < len(names) else str(i)
        rows += [_row(model, name, layer, log_p[i, layer], log_p[i, -1], top) for layer in range(model.n_layers)]
    return rows


def _row(model: WhiteBox, name: str, layer: int, log_p: Tensor, last: Tensor, top: int) -> LensRow:
    values, ids = log_p.topk(top)
    return LensRow(
        case=name,
        layer=layer,
        tokens=tuple(str(model.tokenizer.decode([int(t)])) for t in ids),
        probabilities=tuple(float(v.exp()) for v in values),
        kl_to_last=max(0.0, float((last.exp() * (last - log_p)).sum())),
    )


def _read(module: Any, stream: Tensor) -> Tensor:
    """Log-probabilities [N, L, V] of the residual stream [N, L, D] read by the model's own last norm and head."""
    norm, head = final_norm(module), module.get_output_embeddings()
    weight = next(norm.parameters(), None)
    x = stream.to(head.weight.device, head.weight.dtype if weight is None else weight.dtype)
    return torch.log_softmax(head(norm(x)).float(), dim=-1).cpu()


def final_norm(module: Any) -> nn.Module:
    """The norm between the last decoder layer and the unembedding; CapabilityError where none is known."""
    base = getattr(module, getattr(module, "base_model_prefix", ""), module)
    for owner in (base, getattr(base, "decoder", None), module):
        for name in _NORMS:
            found = getattr(owner, name, None)
            if isinstance(found, nn.Module):
                return found
    raise CapabilityError("the model's final norm was not found", expected="one of: " + ", ".join(_NORMS))


def _check(model: WhiteBox, context: Context, ours: Tensor) -> None:
    """The lens at the last layer must be the model's own prediction."""
    ids = torch.tensor([model.encode(context)], device=next(model.module.parameters()).device)
    with torch.no_grad():
        theirs = torch.log_softmax(model.module(input_ids=ids).logits[0, -1].float(), dim=-1).cpu()
    difference = float((ours.exp() - theirs.exp()).abs().max())
    if difference > TOLERANCE:
        raise ModelError(
            "the lens at the last layer is not the model's own prediction",
            expected=f"probabilities within {TOLERANCE}",
            got=f"a difference of {difference:.3g}",
            next_step="this architecture scales or caps its logits in a way that the lens does not know",
        )


class LogitLens:
    """The lens as a registered method."""

    name = "logit_lens"
    needs = frozenset({Capability.ACTIVATIONS})

    def __init__(self, top: int = 5) -> None:
        self.top = top

    def run(self, model: WhiteBox, positive: Sequence[Case], negative: Sequence[Case] = ()) -> MethodResult:
        """A table of every case and layer."""
        cases = [*positive, *negative]
        rows = logit_lens(model, [c.messages for c in cases], top=self.top, names=[c.id for c in cases])
        return MethodResult(table=tuple(dict(vars(r)) for r in rows))


def method(top: int = 5) -> LogitLens:
    """`top`: tokens shown per layer."""
    return LogitLens(top)
