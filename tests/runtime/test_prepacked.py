"""Weights laid out beforehand give the products of the weights as they are now, and leave the module as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fivefold.runtime import _generate, _prepacked
from fivefold.runtime._prepacked import FEW, prepacked
from fivefold.runtime._structure import share
from fivefold.runtime.protocol import Request, WhiteBox
from fivefold.types import Message

F32, BF16 = torch.float32, torch.bfloat16
pytestmark = pytest.mark.skipif(not _prepacked._agrees(320, 256, F32), reason="this processor's torch has no MKL")
has_bf16 = pytest.mark.skipif(not _prepacked.can_lay_out(BF16), reason="this processor does not multiply bfloat16")
KINDS = [F32, pytest.param(BF16, marks=has_bf16)]


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Two(nn.Module):
    """Two layers, one with a bias, and a weight too small to be worth it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(256, 320, bias=False), nn.Linear(320, 256)
        self.small = nn.Linear(256, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.small(self.down(self.up(x)))
        return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 31, FEW, FEW + 1])
def test_products_are_those_of_the_plain_layer(rows: int, kind: torch.dtype) -> None:
    module, x = Two().to(kind), torch.randn(1, rows, 256).to(kind)
    plain = module(x)
    apart = 1e-5 if kind == F32 else 2e-2
    with prepacked(module) as n:
        assert n == 2 and "forward" in vars(module.up) and "forward" not in vars(module.small)
        torch.testing.assert_close(module(x), plain, rtol=apart, atol=apart)
    assert not any("forward" in vars(m) for m in module.modules())


def used(module: nn.Module) -> list[Any]:
    with prepacked(module):
        return [vars(m)["forward"]._forward.args[1] for m in (module.up, module.down) if "forward" in vars(m)]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_kept_until_the_weight_changes(kind: torch.dtype) -> None:
    module, x = Two().to(kind), torch.randn(1, 4, 256).to(kind)
    apart = 1e-5 if kind == F32 else 2e-2
    first = used(module)
    assert len(first) == 2 and all(a is b for a, b in zip(used(module), first, strict=True))
    module.up.weight.data[7, 3] += 1.0  # as peft merges an adapter: autograd's version of the weight stays
    plain = module(x)
    for _ in range(2):
        assert [b is first[1] for b in used(module)] == [True]
        with prepacked(module):
            torch.testing.assert_close(module(x), plain, rtol=apart, atol=apart)


def test_a_weight_that_lies_the_right_way_is_left() -> None:
    module = Two()
    module.up.weight = nn.Parameter(module.up.weight.t().contiguous().t())
    with prepacked(module) as n:
        assert n == 1 and "forward" not in vars(module.up)


def test_gradients_go_through_the_plain_layer() -> None:
    module, x = Two(), torch.randn(1, 4, 256)
    with prepacked(module), torch.enable_grad():
        module(x).sum().backward()
    assert module.up.weight.grad is not None


def test_forwards_of_others_and_other_dtypes_stay() -> None:
    module = Two()
    module.down.forward = lambda x: x  # type: ignore[method-assign]
    module.up = module.up.to(torch.float16)
    with prepacked(module) as n:
        assert n == 0
    assert "forward" in vars(module.down)


def test_nothing_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_prepacked, "free_bytes", lambda device: 4 * 320 * 256)
    with prepacked(Two()) as n:
        assert n == 0


def test_a_copy_made_meanwhile_has_forwards_of_its_own() -> None:
    module = Two()
    with prepacked(module) as n:
        other = share(module)
        assert n == 2 and "forward" in vars(module.up)
    assert not any("forward" in vars(m) for m in other.modules())
    assert other.up.weight is module.up.weight  # type: ignore[union-attr]


def test_a_failure_inside_leaves_the_layers_as_they_were() -> None:
    module = Two()
    with pytest.raises(KeyError), prepacked(module):
        raise KeyError("x")
    assert not any("forward" in vars(m) for m in module.modules())


@pytest.mark.parametrize("few", [4, 99])
def test_generation_uses_them_for_several_requests(model: WhiteBox, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    texts = [f"Say {word}." for word in ("one", "two", "three", "four", "five")]
    asked = [Request(messages=(Message(role="user", content=text),), max_new_tokens=8) for text in texts]
    plain = [model.generate([request])[0].tokens for request in asked]
    monkeypatch.setattr(_prepacked, "LEAST", 1)
    monkeypatch.setattr(_generate, "FEW_JOBS", few)
    laid_out = []
    product = _prepacked._product

    def seen(x: torch.Tensor, packed: torch.Tensor, *rest: Any) -> torch.Tensor:
        laid_out.append(x.shape)
        return product(x, packed, *rest)

    monkeypatch.setattr(_prepacked, "_product", seen)
    assert [c.tokens for c in model.generate(asked)] == plain
    assert bool(laid_out) is (few == 4)
