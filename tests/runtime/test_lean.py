"""Lean norms and MLPs give the numbers of the model's own, and only while nobody takes a gradient or looks inside."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from fivefold.runtime._forward import Engine
from fivefold.runtime._lean import find, lean
from fivefold.runtime.protocol import Request, WhiteBox
from fivefold.types import Message


class Layer(torch.nn.Module):
    def __init__(self, norm: Any = LlamaRMSNorm, act: str = "silu") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = norm(24)
        self.mlp = LlamaMLP(LlamaConfig(hidden_size=24, num_attention_heads=2, intermediate_size=40, hidden_act=act))
        with torch.no_grad():
            self.norm.weight.copy_(torch.linspace(0.5, 1.5, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mlp(self.norm(x))
        return out


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_the_numbers_are_the_models_own(scale: float) -> None:
    layer, x = Layer(), torch.randn(1, 7, 24) * scale
    parts = find(layer)
    assert {part.module for part in parts} == {layer.norm, layer.mlp}
    with torch.no_grad():
        own = layer(x)
        with lean(parts):
            torch.testing.assert_close(layer(x), own, rtol=1e-5, atol=1e-5 * scale)
    assert "forward" not in vars(layer.norm) and "forward" not in vars(layer.mlp)


def test_what_computes_something_else_is_left_out() -> None:
    assert find(Layer(norm=Gemma3RMSNorm, act="gelu")) == []

    class Doubled(LlamaMLP):
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    layer = Layer()
    layer.mlp = Doubled(layer.mlp.config)
    assert [part.module for part in find(layer)] == [layer.norm]
    layer.norm.forward = lambda x: x  # type: ignore[method-assign]
    assert find(layer) == []


def test_gradients_are_the_models_own() -> None:
    layer, x = Layer(), torch.randn(1, 7, 24)
    found = []
    for parts in ([], find(layer)):
        layer.zero_grad()
        with lean(parts):
            layer(x).pow(2).sum().backward()
        found.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    assert len(found[0]) == 4
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_what_a_hook_keeps_of_the_activation_stays_as_it_was() -> None:
    layer, x, kept = Layer(), torch.randn(1, 7, 24), []
    parts = find(layer)
    layer.mlp.act_fn.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad(), lean(parts):
        layer(x)
        torch.testing.assert_close(kept[0], torch.nn.functional.silu(layer.mlp.gate_proj(layer.norm(x))))


def test_likelihoods_are_those_without(model: WhiteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("The cat sat on", " the mat"), ("The cat sat on", " my vow"), ("Sure", " thing")]
    request = Request(messages=(Message(role="user", content="Hello"),), max_new_tokens=6)
    engine: Engine = model.engine  # type: ignore[attr-defined]
    assert len(engine._lean) > len(engine.layers)
    first = [x.total for x in model.log_likelihood(pairs)], model.generate([request])[0].tokens
    monkeypatch.setattr(engine, "_lean", [])
    assert model.generate([request])[0].tokens == first[1]
    for a, b in zip(first[0], model.log_likelihood(pairs), strict=True):
        assert abs(a - b.total) < 1e-3
    assert not any("forward" in vars(copy.copy(m)) for m in model.module.modules())
