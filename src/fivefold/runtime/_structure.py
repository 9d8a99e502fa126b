"""What can be found in any Hugging Face causal LM by looking: its decoder layers, its width; and how to share it."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from fivefold.errors import ModelError
from fivefold.runtime._stand_in import copied


def decoder_layers(module: nn.Module) -> nn.ModuleList:
    """The list of decoder layers, found by structure: the longest ModuleList whose items hold most of the parameters.

    Raises ModelError when no list of identical blocks exists.
    """
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
    blocks = [m for m in lists if len({type(x).__name__ for x in m}) <= 2 and any(True for _ in m.parameters())]
    if not blocks:
        raise ModelError(
            f"no decoder layers found in {type(module).__name__}",
            expected="a causal LM with a torch.nn.ModuleList of decoder layers",
        )
    return max(blocks, key=lambda m: sum(p.numel() for p in m.parameters()))


def width(module: nn.Module) -> int:
    """Width D of the residual stream."""
    embedding = module.get_input_embeddings()  # type: ignore[operator]
    config = module.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config  # type: ignore[operator]
    return int(getattr(text, "hidden_size", None) or embedding.weight.shape[1])


def keeps_logits(module: nn.Module) -> bool:
    """Whether forward takes `logits_to_keep`, so that the head runs only where it is read."""
    return "logits_to_keep" in inspect.signature(module.forward).parameters


def attention_configs(module: nn.Module) -> list[Any]:
    """Every configuration in the module that names an attention function, each once."""
    found = {id(c): c for m in module.modules() if hasattr(c := getattr(m, "config", None), "_attn_implementation")}
    return list(found.values())


def share(module: nn.Module) -> nn.Module:
    """A second module over the same tensors.

    Parameters and buffers are shared, modules and hooks are its own: hooks and adapters put on the copy are invisible
    to the original, so no handle can leak into another.
    """
    memo: dict[int, Any] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    made: nn.Module = copied(module, memo)
    return made
