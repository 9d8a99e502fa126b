"""Fused RMS norms give the numbers and gradients of the model's own, and leave alone what they do not compute."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from fivefold.align._adapter import Lora, trainable_copy
from fivefold.align._norm import fuse_norms

WIDTH = 24


def norm_of(kind: Any) -> Any:
    norm = kind(WIDTH)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, WIDTH))
    return norm


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm, nn.RMSNorm])
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_norm_is_the_models_own(kind: Any, trains: bool, scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norms = [norm_of(kind).to(dtype).requires_grad_(trains) for _ in range(2)]
    if kind is nn.RMSNorm:
        for norm in norms:
            norm.eps = 1e-6
    assert fuse_norms(norms[1]) == 1
    given = (torch.randn(1, 7, WIDTH) * scale).to(dtype)
    found = []
    for norm in norms:
        x = given.clone().requires_grad_()
        y = norm(x)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype))
        found.append((y.detach(), x.grad, norm.weight.grad))
    for own, fused in zip(*found, strict=True):
        assert (own is None) == (fused is None)
        if own is not None:
            apart = 1e-4 if dtype == torch.float32 else 2e-2
            near = 1e-5 if dtype == torch.float32 else 1e-2  # bfloat16 rounds each of the own steps
            torch.testing.assert_close(fused, own, rtol=apart, atol=near * float(own.abs().max()))
            assert fused.dtype == dtype
    assert (found[1][2] is not None) == trains


def test_another_formula_or_dtype_keeps_its_own_forward() -> None:
    gemma, half = norm_of(Gemma3RMSNorm), norm_of(LlamaRMSNorm).half()
    assert fuse_norms(nn.ModuleList([gemma, half, nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)])) == 0
    later = norm_of(LlamaRMSNorm)
    plain, x = copy.deepcopy(later), torch.randn(3, WIDTH).bfloat16()
    assert fuse_norms(later) == 1
    assert torch.equal(later(x), plain(x)), "what is computed in another dtype goes the model's own way"


@pytest.mark.parametrize("lora", [Lora(r=2), None])
def test_only_the_copy_that_is_trained_is_fused(model: Any, lora: Lora | None) -> None:
    trained = trainable_copy(model.module, lora)
    norms = [m for m in trained.modules() if isinstance(m, LlamaRMSNorm)]
    assert norms and all("forward" in vars(m) for m in norms)
    assert not any("forward" in vars(m) for m in model.module.modules())
