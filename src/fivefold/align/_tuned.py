"""What training left, as a model: an adapter on the model that was trained, or a folder of weights of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fivefold.align._divided import divided
from fivefold.align._loop import TrainConfig
from fivefold.align._processes import everyone
from fivefold.errors import UsageError
from fivefold.runtime.load import load_folder
from fivefold.runtime.precision import dtype_of
from fivefold.runtime.protocol import WhiteBox

if TYPE_CHECKING:
    from fivefold.align.rl import RLConfig


def is_adapter(path: Path) -> bool:
    """Whether a folder that training left holds an adapter; else it holds a whole model."""
    return (path / "adapter_config.json").is_file()


def tuned(model: WhiteBox, path: Path, name: str) -> WhiteBox:
    """The model that training `model` left in `path`, in its dtype and on its device; several processes share its questions."""
    if is_adapter(path):
        return model.with_adapter(str(path), name=name)
    made = load_folder(path, name, dtype=dtype_of(model), device=str(next(model.module.parameters()).device))
    return divided(made, everyone())


def begun(model: WhiteBox, path: Path, name: str) -> tuple[WhiteBox, Path | None]:
    """What a further stage begins from after one that left `path`: the model that stays frozen, and the adapter on it.

    After all weights were trained these are the model, and there is no adapter yet.
    """
    return (model, path) if is_adapter(path) else (tuned(model, path, name), None)


def need_local_samples(first: TrainConfig, rl: RLConfig) -> None:
    """Raise UsageError where others would draw samples on a base that a first stage leaves: they know the one given."""
    if first.adapter is None and (rl.vllm is not None or rl.ray.workers):
        raise UsageError(
            "a vLLM server and Ray workers hold the model given, and the policy's base would be what sft leaves",
            expected="an adapter in sft, or samples drawn by the trainer itself",
            got="sft.adapter=none with rl.vllm or rl.ray.workers",
        )


def need_adapters(**stages: TrainConfig) -> None:
    """Raise UsageError for a stage that trains all weights and cannot; names are dotted names with `__` for the dot."""
    for name, config in stages.items():
        if config.adapter is None:
            setting = name.replace("__", ".")
            raise UsageError(
                f"{setting} cannot train all weights: policy, reference, critic and reward models share frozen ones",
                expected="an adapter",
                got=f"{setting}.adapter=none",
                next_step="leave that setting out; all weights are trained with given answers (sft, preference losses)",
            )
