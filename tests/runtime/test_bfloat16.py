"""bfloat16: a configuration of its own, whose numbers hold together and stay close to float32's (a tiny random model)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from _tiny import tiny_folder
from fivefold.runtime import _attention
from fivefold.runtime._lean import find
from fivefold.runtime.load import load
from fivefold.runtime.precision import dtype_of
from fivefold.runtime.protocol import Request
from fivefold.types import Message

HEADER = "The quick brown fox jumps over the lazy dog. " * 3
PAIRS = [
    (f"{HEADER}Question {i}: what is the capital of France?", f" {w}") for i in range(4) for w in ("Paris", "a fox")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("bf16") / "model", initializer_range=0.1)


@pytest.fixture(scope="module")
def low(folder: Path) -> Any:
    return load(str(folder), dtype="bfloat16")


def test_likelihoods_are_close_to_float32_and_to_its_own_module(folder: Path, low: Any) -> None:
    high = load(str(folder))
    assert next(low.module.parameters()).dtype is torch.bfloat16 and low.engine.packed
    for pair, a, b in zip(PAIRS, low.log_likelihood(PAIRS), high.log_likelihood(PAIRS), strict=True):
        tokens = low.codec.encode_pair(*pair)
        with torch.no_grad():
            logits = low.module(torch.tensor([tokens.inputs])).logits[0].float().log_softmax(-1)
        rows = logits[-len(tokens.continuation) :]
        naive = sum(float(r[t]) for r, t in zip(rows, tokens.continuation, strict=True))
        assert a.total == pytest.approx(naive, abs=0.05 * a.n_tokens)
        assert a.total == pytest.approx(b.total, abs=0.05 * a.n_tokens)


def test_what_is_in_the_batch_moves_a_likelihood_by_rounding_alone(low: Any) -> None:
    together = low.log_likelihood(PAIRS)
    for pair, x in zip(PAIRS, together, strict=True):
        assert low.log_likelihood([pair])[0].total == pytest.approx(x.total, abs=0.05 * x.n_tokens)
    assert [x.total for x in low.log_likelihood(PAIRS)] == [x.total for x in together], "the same batch, the same bits"


def test_generation_is_the_modules_own_where_the_choice_is_clear(low: Any) -> None:
    asked = [
        Request(messages=(Message(role="user", content=f"{HEADER} number {i}"),), max_new_tokens=8) for i in range(5)
    ]
    for request, answer in zip(asked, low.generate(asked), strict=True):
        assert answer.error is None and answer.tokens
        ids = low.encode(request.messages)
        for token in answer.tokens:
            with torch.no_grad():
                logits = low.module(torch.tensor([ids])).logits[0, -1].float()
            assert float(logits.max() - logits[token]) < 0.1, "the likeliest token, or a tie within rounding"
            ids = [*ids, token]


def test_keys_of_answers_are_kept_in_float32_on_a_cpu(low: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    decode = _attention._attend_slots

    def seen(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *rest: Any) -> Any:
        kept.append((q.dtype, keys.dtype, values.dtype))
        return decode(q, keys, values, *rest)

    monkeypatch.setattr(_attention, "_attend_slots", seen)
    request = Request(messages=(Message(role="user", content=HEADER),), max_new_tokens=4)
    assert low.generate([request])[0].error is None
    assert set(kept) == {(torch.float32,) * 3}
    config = low.module.config
    in_float32 = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert low.engine.token_bytes() == in_float32


def test_norms_and_mlps_are_the_modules_own_but_for_rounding(low: Any) -> None:
    parts = find(low.module)
    assert {type(part.module).__name__ for part in parts} >= {"LlamaRMSNorm", "LlamaMLP"}
    with torch.no_grad():
        for part in parts:
            width = low.module.config.hidden_size
            x = torch.randn(1, 7, width, generator=torch.Generator().manual_seed(0)).bfloat16()
            torch.testing.assert_close(part.forward(x), type(part.module).forward(part.module, x), rtol=1e-2, atol=1e-2)


def test_the_dtype_is_part_of_the_model_and_known_behind_wrappers(folder: Path, low: Any) -> None:
    from fivefold.guard.guards.unicode import guard
    from fivefold.guard.stack import GuardedModel, GuardStack
    from fivefold.runtime.cached import CachedModel

    class Nothing:
        def cached(self, keys: Any) -> dict[str, Any]:
            return {}

        def remember(self, key: str, value: Any) -> None: ...

    assert low.fingerprint != load(str(folder)).fingerprint
    assert dtype_of(low) == dtype_of(CachedModel(low, Nothing())) == "bfloat16"
    assert dtype_of(GuardedModel(low, GuardStack([guard()]))) == "bfloat16"
    assert dtype_of(load("scripted:echo")) is None
