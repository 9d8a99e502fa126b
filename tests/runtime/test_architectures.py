"""A new architecture works at once: each of these packs, or is found not to and answers one by one; both are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from _tiny import tiny_tokenizer
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.types import Message

COMMON = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": COMMON,
    "qwen3": {**COMMON, "head_dim": 8},
    "mistral": {**COMMON, "sliding_window": 16},
    "gemma2": {**COMMON, "head_dim": 8, "sliding_window": 16},
    "gemma3_text": {**COMMON, "head_dim": 8, "sliding_window": 16},
    "phi3": COMMON,
    "gpt_oss": {**COMMON, "head_dim": 8, "sliding_window": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": COMMON,
    "gpt_neox": {**COMMON, "rotary_pct": 0.5},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3, "eos_token_id": 2},
    "opt": {
        "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32,
        "max_position_embeddings": 256, "init_std": 0.3, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, "eos_token_id": 2},
    "mixtral": {**COMMON, "num_local_experts": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True, "eos_token_id": 2},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.3, "eos_token_id": 2},
}  # fmt: skip
ALONE = {"bloom", "falcon", "mamba"}
WHOLE = ALONE | {"gpt2"}
"""Their last layer runs for every row: GPT-2's attention takes the shape of its output from that of its input."""


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(request.param, vocab_size=len(tiny_tokenizer()), **FAMILIES[request.param])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return request.param, load(str(tmp_path))


def test_every_family_answers_like_its_own_module(family: Any) -> None:
    name, model = family
    assert model.engine.packed == (name not in ALONE)
    assert model.engine.prunes == (name not in WHOLE)
    system = Message(role="system", content="You are a helpful assistant.")
    requests = [
        Request(messages=(system, Message(role="user", content=text)), max_new_tokens=6)
        for text in ("The quick brown fox", "The lazy dog", "x", "Paris", "France")
    ]
    for request, completion in zip(requests, model.generate(requests), strict=True):
        assert completion.error is None
        ids = model.encode(request.messages)
        for token in completion.tokens:
            with torch.no_grad():
                logits = model.module(torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert float(logits.max() - logits[token]) < 1e-3
            ids.append(token)


def test_every_family_reads_like_its_own_module(family: Any) -> None:
    _, model = family
    header = "The quick brown fox jumps over the lazy dog. " * 6
    pairs = [(header + c, k) for c in ("What is", "Pack my box") for k in (" Paris", " a fox jumps")]
    for (context, continuation), got in zip(pairs, model.log_likelihood(pairs), strict=True):
        pair = model.codec.encode_pair(context, continuation)
        with torch.no_grad():
            rows = model.module(torch.tensor([pair.inputs]), use_cache=False).logits[0].log_softmax(-1)
        expected = sum(float(r[t]) for r, t in zip(rows[-len(pair.continuation) :], pair.continuation, strict=True))
        assert got.total == pytest.approx(expected, abs=1e-3)
    assert model.activations([header], layers=[1]).shape == (1, 1, 32)
