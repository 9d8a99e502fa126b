"""GCG on architectures that position, scale, mask and cache in different ways: losses and gradients stay those of whole
forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from _tiny import tiny_tokenizer
from fivefold.errors import ModelError
from fivefold.redteam._gcg_forward import Packed
from fivefold.redteam._gcg_objective import Objective
from fivefold.redteam._gcg_prompt import SuffixPrompt
from fivefold.redteam._gcg_search import Search
from fivefold.runtime.load import load
from fivefold.types import user_case

COMMON: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SMALL: dict[str, Any] = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, "eos_token_id": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {**COMMON, "head_dim": 8},
    "mistral": {**COMMON, "sliding_window": 16},
    "gemma2": {**COMMON, "head_dim": 8, "sliding_window": 16},
    "gemma3_text": {**COMMON, "head_dim": 8, "sliding_window": 16},
    "gpt_neox": {**COMMON, "rotary_pct": 0.5},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3, "eos_token_id": 2},
    "bloom": SMALL,
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.3, "eos_token_id": 2},
}


def build(name: str, folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(name, vocab_size=len(tiny_tokenizer()), **FAMILIES[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load(str(folder))


def whole(model: Any, prompt: SuffixPrompt, suffix: tuple[int, ...]) -> tuple[float, torch.Tensor]:
    """Loss of one whole forward, and its gradient [S, V] by the suffix's one-hot tokens."""
    ids = torch.tensor([[*prompt.before, *suffix, *prompt.after, *prompt.goal]])
    embedding = model.module.get_input_embeddings()
    embeds = embedding(ids).detach().requires_grad_()
    logits = model.module(inputs_embeds=embeds, use_cache=False).logits[0].float()
    n, start = len(prompt.goal), len(prompt.before)
    loss = F.cross_entropy(logits[-n - 1 : -1], torch.tensor(prompt.goal))
    (slope,) = torch.autograd.grad(loss, embeds)
    table = embedding(torch.arange(len(tiny_tokenizer()))).detach()
    return loss.item(), slope[0, start : start + len(suffix)] @ table.T


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_losses_and_gradients_are_those_of_whole_forwards(name: str, tmp_path: Path) -> None:
    model = build(name, tmp_path)
    prompt = SuffixPrompt(model, user_case("c", "What is the capital of France?"), "! ! !", "Sure, the")
    objective = Objective(prompt, use_prefix_cache=name != "mamba")
    assert isinstance(objective.forward, Packed) == (name not in ("bloom", "mamba"))
    search = Search(prompt, objective, torch.Generator().manual_seed(0), width=10, topk=64, n_replace=1)
    point = objective.at(prompt.start)
    candidates = search.propose(point)
    expected = torch.tensor([whole(model, prompt, c)[0] for c in candidates])
    for forward in (objective.forward, objective.plain):
        objective.forward = forward
        torch.testing.assert_close(objective.losses(candidates, point).total, expected, atol=1e-4, rtol=0)
    _, gradient = whole(model, prompt, prompt.start)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(point.gradient, gradient, atol=1e-4, rtol=1e-3)


def test_a_model_without_a_key_value_cache_says_what_to_do(tmp_path: Path) -> None:
    model = build("mamba", tmp_path)
    prompt = SuffixPrompt(model, user_case("c", "What is the capital of France?"), "! ! !", "Sure, the")
    with pytest.raises(ModelError, match="use_prefix_cache"):
        Objective(prompt)
