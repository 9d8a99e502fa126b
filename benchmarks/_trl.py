"""What the comparisons with TRL share: the same weights, adapters, token ids and settings on both sides; LoRA; float32, or
bfloat16 with `BENCH_DTYPE=bfloat16`: then the weights are in it on both sides, the adapters in float32, and TRL autocasts.

TRL prepares its data itself, and its token ids are then given to ours, so that both sides see the same tokens. Its adapter
is drawn with both factors random (so that losses and gradients are not those of the start) and copied into ours. TRL runs
twice: without gradient checkpointing, before ours, and as it comes, after ours, which is with it (less memory for a second
forward pass). The fastest of as many steps counts on each side, in CPU-seconds from a step's start to its end: forward,
backward, clipping, optimiser. Memory is what the first step takes at its peak beyond what the process held before it.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import dtype, emit
from transformers import TrainerCallback

from fivefold.align._adapter import Lora, trainable, trainable_copy
from fivefold.runtime.load import load

LORA = Lora(r=16, alpha=32)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WORDS = (
    "river", "stone", "garden", "window", "letter", "morning", "travel", "story", "kitchen", "bridge", "winter", "summer",
    "market", "teacher", "doctor", "music", "paper", "engine", "forest", "village", "island", "mountain", "ocean",
    "harbour", "ticket", "station", "number", "question", "answer", "reason", "method",
)  # fmt: skip


def words(rng: random.Random, n: int) -> str:
    return " ".join(rng.choices(WORDS, k=n))


def triples(n: int, prompt: int = 140, answer: int = 55) -> list[dict[str, str]]:
    """Prompts with two answers of about so many tokens, the same on every call."""
    rng = random.Random(0)
    return [
        {
            "prompt": f"<|im_start|>user\n{words(rng, prompt)}?<|im_end|>\n<|im_start|>assistant\n",
            "chosen": words(rng, answer + rng.randrange(-8, 9)),
            "rejected": words(rng, answer + rng.randrange(-8, 9)),
        }
        for _ in range(n)
    ]


def settings(config: Any, batch: int, steps: int, **more: Any) -> Any:
    """A TRL configuration for `steps` plain steps of `batch` items."""
    common: dict[str, Any] = {
        "output_dir": "/tmp/fivefold-bench-trl",
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": dtype() == "bfloat16",
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    return config(**{**common, **more})


def peft_config(task: str = "CAUSAL_LM") -> Any:
    from peft import LoraConfig

    return LoraConfig(r=LORA.r, lora_alpha=LORA.alpha, lora_dropout=0.0, target_modules=TARGETS, task_type=task)


def randomise(module: Any) -> None:
    """Give both factors of every adapter small random values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in sorted(trainable(module).items()):
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.02)


def _resident(which: str) -> float:
    """MiB that this process holds (`VmRSS`), or held at most since `at_rest` (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def at_rest() -> float:
    """Give back what is free and count peaks from here on; returns the MiB that are held."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def above(rest: float) -> float:
    """MiB that were held at most since `at_rest` gave `rest`, beyond it."""
    return _resident("VmHWM") - rest


class Watch(TrainerCallback):
    """Of TRL's steps of `n` items: CPU-seconds of each, and of the first the gradient before it is clipped and the memory."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.seconds: list[float] = []
        self.gradient: dict[str, torch.Tensor] = {}
        self.peak = 0.0
        self._began = self._rest = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._rest = 0.0 if self.seconds else at_rest()
        self._began = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.process_time() - self._began)
        if self._rest:
            self.peak = above(self._rest)

    def rate(self) -> float:
        """Items a CPU-second, in the fastest step."""
        return self.n / min(self.seconds)


def prepared(trainer: Any, n: int) -> Watch:
    """TRL's trainer of steps of `n` items, ready to run: the adapter drawn, and what watches it."""
    watch = Watch(n)
    randomise(trainer.model)
    capture(trainer, watch)
    return watch


def capture(trainer: Any, watch: Watch) -> None:
    """Keep the gradient of TRL's first step: clipping is where it is whole for the last time."""
    clip: Callable[..., Any] = trainer.accelerator.clip_grad_norm_

    def first(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not watch.gradient:
            model = trainer.accelerator.unwrap_model(trainer.model)
            watch.gradient = {n: p.grad.clone() for n, p in trainable(model).items() if p.grad is not None}
        return clip(parameters, *args, **kwargs)

    trainer.accelerator.clip_grad_norm_ = first
    trainer.add_callback(watch)


def twin(model: Any, theirs: Any) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    """Our trainable copy with TRL's adapter in it, and its parameters."""
    trained = trainable_copy(model.module, LORA)
    params = trainable(trained)
    known = {plain(n): p for n, p in trainable(theirs).items() if "lora_" in n}
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(known[plain(name)])
    return trained, params


def plain(name: str) -> str:
    """A parameter's name from the first decoder layer on, the same on both sides."""
    return name[name.index("layers.") :]


def same_gradient(ours: dict[str, torch.nn.Parameter], theirs: dict[str, torch.Tensor]) -> float:
    """Relative difference of both gradients, as vectors over all adapters."""
    known = {plain(n): g for n, g in theirs.items() if "lora_" in n}
    pairs = [(p.grad, known[plain(n)]) for n, p in ours.items() if p.grad is not None]
    apart = sum(float((a - b).square().sum()) for a, b in pairs)
    return float((apart / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5)


def off_float32(
    theirs: Any, step: Callable[[Any], object], ours: dict[str, torch.nn.Parameter], watch: Watch
) -> dict[str, float]:
    """In bfloat16, how far each side's gradient is from that of the embedded model in float32 with the same adapter, which
    `step` computes on the trainable copy that it is given; nothing in float32."""
    if dtype() == "float32":
        return {}
    trained, params = twin(load("smollm2"), theirs)
    step(trained)
    exact = {name: p.grad for name, p in params.items() if p.grad is not None}
    with_gradient = {name: p for name, p in ours.items() if p.grad is not None}
    mine = same_gradient(with_gradient, exact)
    for name, p in params.items():
        p.grad = {plain(n): g for n, g in watch.gradient.items()}[plain(name)].float()
    return {"ours_off_float32": round(mine, 4), "theirs_off_float32": round(same_gradient(params, exact), 4)}


def stepping(params: dict[str, torch.nn.Parameter], backward: Callable[[], float], steps: int) -> dict[str, Any]:
    """Our steps: loss of the first, its gradient's holders, CPU-seconds of each."""
    optimizer = torch.optim.AdamW(params.values(), lr=1e-5, weight_decay=0.0)
    seconds, losses, gradient, peak = [], [], {}, 0.0
    for _ in range(steps):
        rest = 0.0 if seconds else at_rest()
        began = time.process_time()
        losses.append(backward())
        if not gradient:
            gradient = {n: p.grad.clone() for n, p in params.items() if p.grad is not None}
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - began)
        peak = above(rest) if rest else peak
    for name, p in params.items():
        p.grad = gradient.get(name)
    return {"loss": losses[0], "seconds": min(seconds), "peak": peak}


def fresh(model: Any) -> Any:
    """An ordinary copy of the embedded model for TRL."""
    made = copy.deepcopy(model.module)
    made.set_attn_implementation("sdpa")
    return made.requires_grad_(True).train()


def report(ours: dict[str, Any], loss: float, gradient: float, **more: Any) -> dict[str, Any]:
    """The agreement that is printed beside the ratio. 1e-3 is what counts as the same in float32; in bfloat16 both sides round
    by more than that, and `off_float32` says which is nearer to what they round."""
    off = abs(ours["loss"] - loss) / max(abs(loss), 1e-6)
    return {
        **({"agrees": off < 1e-3 and gradient < 1e-3} if dtype() == "float32" else {}),
        "loss_ours": round(ours["loss"], 6),
        "loss_theirs": round(loss, 6),
        "gradient_difference": round(gradient, 8),
        **more,
    }


def beside(
    name: str,
    unit: str,
    trainer: str,
    sides: tuple[Watch, Watch],
    agreement: dict[str, Any],
    ours: dict[str, Any],
    rate: float,
) -> None:
    """Two lines: our `rate` beside TRL's as it comes, and beside TRL's without gradient checkpointing."""
    for way, watch in zip(("as it comes (gradient checkpointing)", "gradient checkpointing off"), sides, strict=True):
        figures = {
            "ours_cpu_s": round(ours["seconds"], 2),
            "theirs_cpu_s": round(min(watch.seconds), 2),
            "ours_peak_mib": round(ours["peak"]),
            "theirs_peak_mib": round(watch.peak),
        }
        emit(name, f"trl {trainer}, LoRA, {way}", f"{unit}, {dtype()}", rate, watch.rate(), agreement | figures, "trl")
