"""The most likely token, found in two steps, is torch's argmax, the first of equals included."""

from __future__ import annotations

import pytest
import torch

from fivefold.runtime._sample import SPAN, likeliest


@pytest.mark.parametrize("vocab", [SPAN, 5 * SPAN, 5 * SPAN + 1, 7])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_likeliest_is_argmax(rows: int, vocab: int) -> None:
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0))
    assert likeliest(logits).tolist() == logits.argmax(dim=1).tolist()


@pytest.mark.parametrize("equal", [(3, 3 + SPAN), (SPAN + 1, SPAN + 2), (0, 4 * SPAN + 5), (SPAN - 1, SPAN)])
def test_of_equals_the_first_counts(equal: tuple[int, int]) -> None:
    logits = torch.zeros(2, 5 * SPAN)
    logits[1, list(equal)] = 1.0
    assert likeliest(logits).tolist() == [0, equal[0]]
