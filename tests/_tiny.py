"""A tiny random Llama with a tokenizer of its own, written as an ordinary Hugging Face folder in milliseconds.

    from _tiny import tiny_folder
    folder = tiny_folder(tmp_path / "model")          # config.json, model.safetensors, tokenizer, chat template
    model = load(str(folder))

The weights are drawn wide, so that its answers differ from prompt to prompt and tests can tell right from wrong.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

CORPUS = (
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs.",
    "What is the capital of France? The capital of France is Paris.",
    "system user assistant You are a helpful assistant. Sure, I cannot help with that. 0123456789",
    "How vexingly quick daft zebras jump; sphinx of black quartz, judge my vow!",
)

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer trained on four lines: 320 tokens, ChatML markers, `<|im_end|>` ends an answer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[1], eos_token=special[2], pad_token=special[0]
    )
    fast.chat_template = TEMPLATE
    return fast


def tiny_model(seed: int = 0, **config: Any) -> Any:
    """A random Llama in eval mode: 4 layers, width 32, 4 query and 2 key/value heads, 512 positions."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        **config,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def tiny_folder(path: Path, seed: int = 0, **config: Any) -> Path:
    """Write the model and its tokenizer to `path`; returns it."""
    tiny_model(seed, **config).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def forced_folder(path: Path, answer: str) -> Path:
    """Write a tiny Llama that gives `answer` to everything; returns `path`.

    The answer is one token of its own. Every other token carries a large first component and leads to it, the answer a
    large second one that leads to the end; layers add little. So weights, activations and gradients are all there, and
    nothing that an attack finds within reason changes what is said.
    """
    import copy

    import torch
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens([AddedToken(answer, normalized=False)])
    said = tokenizer.convert_tokens_to_ids(answer)
    model = tiny_model(vocab_size=len(tokenizer))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.02
            layer.mlp.down_proj.weight *= 0.02
        embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
        embeddings[:, 0], embeddings[:, 1] = 20.0, 0.0
        embeddings[said, 0], embeddings[said, 1] = 0.0, 20.0
        head *= 0.1
        head[said], head[tokenizer.eos_token_id] = 0.0, 0.0
        head[said, 0], head[tokenizer.eos_token_id, 1] = 10.0, 10.0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny_adapter(path: Path, folder: Path, seed: int = 1, scale: float = 0.5) -> Path:
    """Write a random LoRA adapter for the model in `folder`; returns `path`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(0, scale)
    adapted.save_pretrained(path)
    return path
