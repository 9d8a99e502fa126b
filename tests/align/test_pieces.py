"""Trees cut into pieces give what whole blocks under masks give, in values and in gradients."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch

from _items import random_items
from fivefold.align import _pack
from fivefold.align._adapter import Lora, causal_lm, trainable, trainable_copy
from fivefold.align._pack import Item, pack
from fivefold.align._policy import answer_logps
from fivefold.runtime import _attention, _pieces
from fivefold.runtime._attention import Ask
from fivefold.runtime._pieces import Pieces, attend_in_pieces


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pack, "PIECE_SCORES", 0)


def branching(seed: int) -> list[Item]:
    """Prompts with answers that share starts of all lengths."""
    rng = random.Random(seed)
    head = tuple(rng.randrange(9) for _ in range(3))

    def item() -> Item:
        answers = tuple(tuple(rng.randrange(2) for _ in range(rng.randrange(2, 7))) for _ in range(6))
        return Item(prompt=head + tuple(rng.randrange(9) for _ in range(rng.randrange(1, 8))), answers=answers)

    return [item() for _ in range(4)]


def seen_in(pieces: Pieces, rows: int) -> torch.Tensor:
    """How often each row sees each."""
    times = torch.zeros(rows, rows, dtype=torch.int)
    for p in pieces.parts:
        part = torch.ones(p.stop - p.start, p.last - p.first, dtype=torch.int)
        times[p.start : p.stop, p.first : p.last] += part.tril() if p.own else part
    return times


@pytest.mark.parametrize("seed", range(5))
def test_every_row_sees_what_its_block_allows_and_once(cut: None, seed: int) -> None:
    row = pack(branching(seed))
    assert row.pieces is not None and row.pieces.reach == int(row.depth.max())
    wanted = torch.zeros(len(row.tokens), len(row.tokens), dtype=torch.int)
    wanted[: row.shared, : row.shared] = torch.ones(row.shared, row.shared).tril().int()
    for start, stop, within in row.blocks:
        wanted[start:stop, : row.shared] = 1
        wanted[start:stop, start:stop] = (
            torch.ones(stop - start, stop - start).tril() if within is None else within
        ).int()
    assert torch.equal(seen_in(row.pieces, len(row.tokens)), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("heads", "native"), itertools.product([(4, 4), (6, 2)], [True, False]))
def test_values_and_gradients_are_those_of_a_masked_softmax(
    cut: None, monkeypatch: pytest.MonkeyPatch, heads: tuple[int, int], native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(_pieces, "NATIVE_GROUPS", native and _pieces.NATIVE_GROUPS)
    row = pack(branching(7))
    assert row.pieces is not None
    rows, torch_rng = len(row.tokens), torch.Generator().manual_seed(0)
    made = [torch.randn(1, h, rows, 8, generator=torch_rng, dtype=dtype) for h in (heads[0], heads[1], heads[1])]
    given = [x.requires_grad_() for x in made]
    target = torch.randn(1, rows, heads[0], 8, generator=torch_rng, dtype=dtype)
    ours = attend_in_pieces(given[0], given[1], given[2], row.pieces, 0.3)
    q, k, v = given[0], *(x.repeat_interleave(heads[0] // heads[1], dim=1) for x in given[1:])
    scores = (q @ k.transpose(-1, -2) * 0.3).masked_fill(seen_in(row.pieces, rows) == 0, float("-inf"))
    plain = (scores.softmax(-1) @ v).transpose(1, 2)
    apart = 5e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(ours, plain, atol=apart, rtol=apart)
    gradients = [torch.autograd.grad(out, given, target) for out in (ours, plain)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=apart, rtol=apart)
    assert {g.dtype for g in gradients[0]} == {dtype}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_trained_in_pieces_has_the_gradients_of_blocks(
    model: Any, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    found, calls = [], []
    inside = _attention.attend_in_pieces
    monkeypatch.setattr(_attention, "attend_in_pieces", lambda *a: calls.append(1) or inside(*a))
    for cost in (0, 10**9):
        monkeypatch.setattr(_pack, "PIECE_SCORES", cost)
        torch.manual_seed(0)
        module = causal_lm(trainable_copy(model.module, Lora(r=4), checkpointing=checkpointing))
        with torch.no_grad():
            for p in trainable(module).values():
                p.normal_(0, 0.1)
        logps = answer_logps(module, pack(random_items(4, 5)))
        logps.pow(2).sum().backward()
        found.append((logps.detach(), [p.grad for p in trainable(module).values()]))
    assert len(calls) == (8 if checkpointing else 4)
    scale = max(float(g.abs().max()) for g in found[1][1])
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4 * scale, rtol=1e-3)


def test_only_what_is_worth_its_pieces_is_cut() -> None:
    prompt = tuple(range(150))
    pair = Item(prompt=prompt, answers=tuple(tuple(range(k, 40 + k)) for k in (1, 2)))
    group = Item(prompt=prompt, answers=tuple(tuple(range(k, 64 + k)) for k in range(8)))
    assert pack([Item(prompt=prompt, answers=((1, 2),))]).pieces is None and pack([pair]).pieces is None
    found = pack([group]).pieces
    assert found is not None and len(found.parts) == 10
    assert sum(p.scores for p in found.parts) < 0.35 * len(pack([group]).tokens) ** 2


@pytest.mark.parametrize("ask", [Ask(0, 1.0, window=149), Ask(0, 1.0, softcap=30.0), Ask(0, 1.0, sinks=torch.zeros(2))])
def test_what_the_kernel_cannot_do_goes_another_way(ask: Ask) -> None:
    pieces, query = Pieces((), reach=149), torch.zeros(1, 2, 3, 4)
    assert not _attention._is_plain(ask, pieces, query)
    assert _attention._is_plain(Ask(0, 1.0, window=150), pieces, query)
    assert not _attention._is_plain(Ask(0, 1.0), pieces, query.to("meta"))
