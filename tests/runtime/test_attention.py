"""The arithmetic of packed attention against one dense softmax."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fivefold.runtime._attention import Ask, attend, packed_attention
from fivefold.runtime._pieces import merge
from fivefold.runtime._plan import Batch, Block, Plan, Prefix, attending

G, R, T, P, D = 2, 3, 5, 7, 8
PLAIN = Ask(0, D**-0.5)
CAPPED = Ask(0, D**-0.5, softcap=2.0)


def tensors(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, ask: Ask
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = (q @ k.transpose(-1, -2)).double() * ask.scale
    if ask.softcap:
        scores = ask.softcap * torch.tanh(scores / ask.softcap)
    scores = scores if bias is None else scores + bias
    return (scores.softmax(-1) @ v.double()).float(), scores.logsumexp(-1).float()


@pytest.mark.parametrize("ask", [PLAIN, CAPPED], ids=["fused", "by hand"])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_is_a_softmax_with_its_log_sum_exp(ask: Ask, masked: bool) -> None:
    q, k, v = tensors(1, G, T, D), tensors(1, G, P, D, seed=1), tensors(1, G, P, D, seed=2)
    bias = torch.where(tensors(T, P, seed=3) > 0, 0.0, float("-inf")).index_fill(1, torch.tensor([0]), 0.0)
    for got, expected in zip(
        attend(q, k, v, bias if masked else None, ask), dense(q, k, v, bias if masked else None, ask), strict=True
    ):
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("ask", [PLAIN, CAPPED], ids=["fused", "by hand"])
def test_causal_order_needs_no_mask(ask: Ask) -> None:
    q, k, v = (tensors(1, G, T, D, seed=s) for s in range(3))
    bias = torch.full((T, T), float("-inf")).triu(1)
    got, expected = attend(q, k, v, None, ask, causal=True), dense(q, k, v, bias, ask)
    assert torch.allclose(got[0], expected[0], atol=1e-5) and torch.allclose(got[1], expected[1], atol=1e-5)


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_two_parts_merge_into_the_whole(cut: int) -> None:
    q, k, v = tensors(G, T, D), tensors(G, P, D, seed=1), tensors(G, P, D, seed=2)
    out, lse = dense(q, k[:, :cut], v[:, :cut], None, PLAIN)
    merge(out, lse, *dense(q, k[:, cut:], v[:, cut:], None, PLAIN))
    expected = dense(q, k, v, None, PLAIN)
    assert torch.allclose(out, expected[0], atol=1e-5) and torch.allclose(lse, expected[1], atol=1e-5)


def test_a_row_that_sees_nothing_weighs_nothing() -> None:
    q, k, v = tensors(1, G, T, D), tensors(1, G, P, D, seed=1), tensors(1, G, P, D, seed=2)
    bias = torch.zeros(T, P)
    bias[2] = float("-inf")
    nothing, none = attend(q, k, v, bias, PLAIN, sparse=True)
    assert torch.equal(nothing[:, :, 2], torch.zeros(1, G, D)) and none[:, :, 2].isneginf().all()
    out, lse = dense(q, k, v, None, PLAIN)
    before = out[:, :, 2].clone()
    merge(out, lse, nothing, none)
    assert torch.allclose(out[:, :, 2], before) and out.isfinite().all()


def test_neighbours_with_one_prefix_read_it_together() -> None:
    first, second = Prefix(4), Prefix(6)
    at = torch.arange(3)
    blocks = [Block(3 * i, 3 * i + 3, at, prefix=p) for i, p in enumerate((first, first, None, first, second))]
    assert [(r.start, r.stop, r.prefix) for r in Plan(blocks).runs()] == [
        (0, 6, first),
        (9, 12, first),
        (12, 15, second),
    ]


def row_of(sizes: list[int], *, prefix: Prefix | None, trees: bool) -> list[Block]:
    """Blocks of `sizes` one after another; every second one under a mask where `trees`."""
    blocks, at = [], 0
    for index, size in enumerate(sizes):
        mask = torch.ones(size, size, dtype=torch.bool).tril()
        mask[2:, 1:2] = False
        own = torch.arange(size) + (prefix.length if prefix else 0)
        blocks.append(Block(at, at + size, own, prefix=prefix, within=mask if trees and index % 2 else None))
        at += size
    return blocks


@pytest.mark.parametrize("trees", [False, True])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("behind", [False, True])
def test_blocks_seen_together_are_each_seen_alone(
    trees: bool, window: int | None, softcap: float | None, behind: bool
) -> None:
    sizes = [9, 3, 10, 8, 1, 10]
    prefix = Prefix(P, {0: tensors(1, G, P, D, seed=5)}, {0: tensors(1, G, P, D, seed=6)}) if behind else None
    q, k, v = (tensors(1, h, sum(sizes), D, seed=s) for s, h in enumerate((G * R, G, G)))
    asked = {"sliding_window": window, "softcap": softcap}
    layer = SimpleNamespace(layer_idx=0)
    together = Plan(row_of(sizes, prefix=prefix, trees=trees))
    assert [len(b.blocks) for b in together.batches(q.device) if isinstance(b, Batch)] == [4]
    with attending(together):
        got = packed_attention(layer, q, k, v, None, **asked)[0][0]
    for block in row_of(sizes, prefix=prefix, trees=trees):
        rows = slice(block.start, block.stop)
        alone = Plan([Block(0, len(block.positions), block.positions, prefix=prefix, within=block.within)])
        with attending(alone):
            expected = packed_attention(layer, q[:, :, rows], k[:, :, rows], v[:, :, rows], None, **asked)[0][0]
        assert torch.allclose(got[rows], expected, atol=1e-5)


def test_plans_do_not_nest() -> None:
    with attending(Plan()), pytest.raises(RuntimeError, match="already open"), attending(Plan()):
        pass
    with attending(Plan()):
        pass
