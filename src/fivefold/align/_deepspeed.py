"""The optimiser's state (and gradients) split over the processes: DeepSpeed's ZeRO, as accelerate's configuration asks for it.

Each of N processes has all weights, computes its rows with them, and keeps 1/N of AdamW's moments and of float32 copies of
the trained weights; stage 2 keeps 1/N of the gradients, too. DeepSpeed's engine adds gradients up over the processes
(their sum, since rows carry their share of the batch), clips, steps where it keeps, and gathers the new weights. It is
given each row's loss, and is told to leave it to this loop when a step ends (`managed_gradient_accumulation`). Weights,
averages and moments are handled as this process's pieces of the float32 copies; checkpoints and results hold them
undivided, as those of any other run, and DeepSpeed's own checkpoints are not used.

Source: Rajbhandari et al. 2020 (arXiv:1910.02054).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fivefold.align._adapter import trainable
from fivefold.align._masters import Masters
from fivefold.align._processes import InStep, checksum
from fivefold.errors import MissingExtraError, TrainingError, UsageError
from fivefold.runtime._hush import hush_deepspeed
from fivefold.types import digest

if TYPE_CHECKING:
    from fivefold.align._loop import TrainConfig

OLDEST = (0, 19, 8)
"""The version of DeepSpeed that this was tested with; it has `managed_gradient_accumulation` and sums of gradients."""
ZERO = "zero_optimization."
TUNED = {
    ZERO + name
    for name in (
        "allgather_bucket_size",
        "allgather_partitions",
        "contiguous_gradients",
        "overlap_comm",
        "reduce_bucket_size",
        "reduce_scatter",
    )
}
"""Settings that are handed on to DeepSpeed: how it communicates, which changes no result."""
ACCEPTED: dict[str, tuple[Any, ...]] = {
    "train_batch_size": ("auto",),
    "train_micro_batch_size_per_gpu": ("auto",),
    "gradient_accumulation_steps": ("auto", 1),
    "bf16.enabled": ("auto", True, False),
    "fp16.enabled": ("auto", False),
    ZERO + "stage": (1, 2),
    ZERO + "offload_optimizer.device": ("none", None),
    ZERO + "offload_optimizer.nvme_path": ("none", None),
    ZERO + "offload_param.device": ("none", None),
    ZERO + "offload_param.nvme_path": ("none", None),
    ZERO + "stage3_gather_16bit_weights_on_model_save": (False,),
}
"""Settings with the values that fit what is done here."""
SEEN = {"gradient_clipping", "steps_per_print", "wall_clock_breakdown"}
"""Settings that are compared with the trainer's own (clipping), or that ask for nothing but lines in a log."""
INSTEAD = {
    "optimizer": "set lr, betas and weight_decay of the training configuration",
    "scheduler": "set schedule, warmup and lr_end of the training configuration",
    "train_batch_size": "set batch_items of the training configuration",
    "train_micro_batch_size_per_gpu": "set row_tokens of the training configuration",
    ZERO + "stage": "split weights with FSDP (fsdp_version: 2); stage 0 is distributed_type MULTI_GPU or MULTI_CPU",
}


@dataclass(frozen=True)
class Settings:
    """What accelerate's configuration asks of DeepSpeed."""

    stage: int
    half: bool
    """Whether weights are cast to bfloat16 to be computed with."""
    clipping: float | None
    tuned: Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """Where a trained parameter lies: `start` is that of this process's piece in the flattened parameter, `at` and
    `numel` its place in what this process keeps (numel 0: it keeps none of it)."""

    shape: torch.Size
    loaded: torch.dtype
    start: int
    at: int
    numel: int


@dataclass
class Engine:
    """DeepSpeed's engine, and what it was given; filled in by `Zero.split`."""

    run: Any = None
    adam: torch.optim.AdamW | None = None
    loaded: dict[int, Tensor] = field(default_factory=dict)
    """Each trained parameter (by id) as it was before it was cast; dropped when the optimiser is there."""
    pieces: dict[str, Piece] = field(default_factory=dict)
    held: dict[str, Tensor] = field(default_factory=dict)
    arrived: list[int] = field(default_factory=list)
    """Which trained parameters got a gradient since the last step, in this order."""

    @property
    def kept(self) -> Tensor:
        """The float32 numbers that this process steps, in one dimension."""
        assert self.adam is not None
        kept: Tensor = self.adam.param_groups[0]["params"][0]
        return kept


@dataclass(frozen=True)
class _Pieces(Masters):
    """This process's pieces of the float32 weights, in one dimension, some empty."""

    gather: Callable[[], None]

    def round(self) -> None:
        """Gather the weights to compute with from what the processes keep."""
        self.gather()


class _Trained(nn.Module):
    """What DeepSpeed is given to train: it has the parameters, and passes on a loss that was computed with them."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, loss: Tensor) -> Tensor:
        """The loss itself."""
        return loss


@dataclass(frozen=True, kw_only=True)
class Zero(InStep):
    """Processes that each keep a part of the optimiser's state."""

    on: torch.device
    settings: Settings
    engine: Engine = field(default_factory=Engine, compare=False)

    @property
    def stage(self) -> int:
        """Stage of ZeRO: 1 splits the optimiser's state, 2 gradients, too."""
        return self.settings.stage

    @property
    def copies(self) -> bool:
        """True: what is trained becomes a view of DeepSpeed's buffers, and is cast and moved."""
        return True

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.on

    @property
    def computed_in(self) -> torch.dtype | None:
        """The dtype that weights are cast to, or None: their own."""
        return torch.bfloat16 if self.settings.half else None

    def numbers(self, each: int) -> float:
        """How many of the `each` numbers that training keeps for a trained parameter lie in this process: its part, the
        weight to compute with, and in stage 1 the gradient."""
        return each / self.size + (2 if self.settings.stage == 1 else 1)

    def split(self, trained: Any, *beside: nn.Module) -> None:
        """Give DeepSpeed the trained parameters of a model made with `trainable_copy(..., split=True)` and of modules
        beside it, whose moments and float32 copies are split from here on."""
        import deepspeed

        self.agree("the weights to be trained", [checksum(m) for m in (trained, *beside)])
        if beside and self.settings.half:
            raise UsageError(
                "DeepSpeed would cast a scalar head to bfloat16",
                expected="mixed_precision: no for reward and process models",
                next_step="load the base in bfloat16 (dtype='bfloat16'): adapter and head are float32 in every case",
            )
        model = _Trained(trained, *beside)
        params = [p for part in (trained, *beside) for p in trainable(part).values()]
        found = {p.dtype for p in params}
        if len(found) > 1 and not self.settings.half:
            raise UsageError("ZeRO keeps trained weights in one run of numbers", expected="one dtype", got=found)
        engine = self.engine
        engine.loaded = {id(p): p.detach() for p in params}
        engine.adam = torch.optim.AdamW(params)
        for i, p in enumerate(params):
            p.register_post_accumulate_grad_hook(partial(_note, engine.arrived, i))  # type: ignore[no-untyped-call]
        if self.on.type == "cpu":
            # else DeepSpeed compiles it, for a minute and with a C++ compiler, on the first start; only inference uses it
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        engine.run, *_ = deepspeed.initialize(model=model, optimizer=engine.adam, config=config_of(self.settings))

    def prepared(self, params: Mapping[str, nn.Parameter], config: TrainConfig) -> tuple[torch.optim.AdamW, Masters]:
        """AdamW over what this process keeps, and its pieces of the float32 weights; also notes where each lies."""
        clipping, engine = self.settings.clipping, self.engine
        if clipping is not None and clipping != config.grad_clip:
            raise UsageError(
                "gradient_clipping of DeepSpeed's configuration is not the trainer's grad_clip",
                expected=config.grad_clip,
                got=clipping,
                next_step="leave gradient_clipping out (or auto)",
            )
        assert engine.adam is not None
        settings = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
        for group in engine.adam.param_groups:
            group.update(settings)
        engine.pieces = {name: self._piece(p) for name, p in params.items()}
        engine.held = {name: _narrow(engine.kept.detach(), piece) for name, piece in engine.pieces.items()}
        for name, p in params.items():  # DeepSpeed has them rounded to bfloat16 where that is computed in
            engine.held[name].copy_(_cut(engine.loaded[id(p)], engine.pieces[name]))
        engine.loaded.clear()
        covered = self.gathered({self.rank: sum(piece.numel for piece in engine.pieces.values())})
        if sum(covered) != sum(p.numel() for p in params.values()):
            raise TrainingError("DeepSpeed's pieces do not add up to the trained weights", got=covered)
        return engine.adam, _Pieces(engine.held, {}, engine.run.optimizer.update_lp_params)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one row's `loss`, in step with the other processes."""
        self.engine.run.backward(self.engine.run(loss))

    def step(self, optimizer: torch.optim.Optimizer, masters: Masters, limit: float) -> float:
        """Take a step, clipped to a norm of `limit`; returns the norm before.

        Raises TrainingError where gradients came in another order in another process: DeepSpeed adds them up as they
        come (stage 1: those that came), and would add up those of different weights.
        """
        arrived = self.engine.arrived if self.settings.stage > 1 else sorted({*self.engine.arrived})
        self.agree("the order of the gradients", digest(arrived))
        self.engine.arrived.clear()
        self.engine.run.optimizer.clip_grad = limit
        self.engine.run.step()
        norm = float(self.engine.run.get_global_grad_norm())
        return norm if norm >= 0 else math.nan

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pieces (by the name of their parameter) put together, on the CPU; the first process gets them.

        Given parameters, their float32 weights, in the dtype that they were loaded in.
        """
        found, engine = dict[str, Tensor](), self.engine
        for name, t in tensors.items():
            piece = engine.pieces[name]
            full = self._whole(engine.held[name] if isinstance(t, nn.Parameter) else t, piece)
            if self.first:
                found[name] = full.to(piece.loaded if isinstance(t, nn.Parameter) else full.dtype).cpu()
        return found

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """This process's piece of a tensor that all processes have whole."""
        (name,) = [n for n, held in self.engine.held.items() if held is like]
        return _cut(whole, self.engine.pieces[name]).to(self.on, copy=True)

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of AdamW over whole parameters, as one process has it."""
        found, pieces = optimizer.state_dict(), self.engine.pieces
        (group,) = found["param_groups"]
        kept: dict[str, Tensor] = found["state"].get(0, {})
        count = {key: t for key, t in kept.items() if key == "step"}
        state = {
            key: self.whole({name: _narrow(t, piece) for name, piece in pieces.items()})
            for key, t in kept.items()
            if key not in count
        }
        found["param_groups"] = [{**group, "params": list(range(len(pieces)))}]
        found["state"] = {  # a count of its own for each: AdamW adds to every parameter's
            i: {key: t.clone() for key, t in count.items()} | {key: whole[name] for key, whole in state.items()}
            for i, name in enumerate(pieces if self.first and kept else [])
        }
        return found

    def put_back(self, optimizer: torch.optim.Optimizer, kept: Mapping[str, Any]) -> None:
        """Give AdamW this process's part of what `moments` gave, here or in any other run."""
        flat, pieces = self.engine.kept, list(self.engine.pieces.values())
        state: dict[str, Tensor] = {}
        for i, piece in enumerate(pieces):
            for key, t in kept["state"][i].items():
                if key == "step":
                    state[key] = t.clone()
                    continue
                _narrow(state.setdefault(key, torch.zeros_like(flat)), piece).copy_(_cut(t, piece))
        optimizer.state[flat] = state

    def _piece(self, p: nn.Parameter) -> Piece:
        # what DeepSpeed's documented `safe_get_full_fp32_param` reads; None where this process keeps nothing of it
        found, loaded = p._hp_mapping, self.engine.loaded[id(p)].dtype  # type: ignore[attr-defined]
        if found is None:
            return Piece(p.shape, loaded, 0, 0, 0)
        inside, kept = found.lp_fragment_address, found.hp_fragment_address
        return Piece(p.shape, loaded, inside.start, kept.start, kept.numel)

    def _whole(self, t: Tensor, piece: Piece) -> Tensor:
        flat = torch.zeros(piece.shape.numel(), dtype=t.dtype, device=t.device)
        flat[piece.start : piece.start + piece.numel] = t.detach()
        dist.all_reduce(flat)  # nothing but zeros is added to any number
        return flat.view(piece.shape)


def settings() -> Settings:
    """What accelerate's configuration in the environment asks of DeepSpeed.

    Raises MissingExtraError without deepspeed, UsageError for settings that would have to be ignored.
    """
    hush_deepspeed()
    try:
        import deepspeed
        from accelerate.utils import DeepSpeedPlugin
    except ImportError as error:
        raise MissingExtraError("deepspeed", "deepspeed") from error
    if named := os.environ.get("ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES"):
        raise _ignored("deepspeed_moe_layer_cls_names", None, named)
    version = (deepspeed.__version_major__, deepspeed.__version_minor__, deepspeed.__version_patch__)
    if version < OLDEST:  # an older one would take means instead of sums without a word
        raise UsageError("this DeepSpeed is too old", expected=".".join(map(str, OLDEST)), got=deepspeed.__version__)
    try:
        asked = {ZERO + "stage": 0, **dict(_flat(DeepSpeedPlugin().deepspeed_config))}
    except ValueError as error:
        raise UsageError("accelerate cannot read DeepSpeed's configuration", got=error) from error
    for name, value in asked.items():
        if name not in TUNED | SEEN and value not in ACCEPTED.get(name, ()):
            raise _ignored(name, ACCEPTED.get(name), value)
    clipping = asked.get("gradient_clipping", "auto")
    mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    return Settings(
        stage=asked[ZERO + "stage"],
        half=asked.get("bf16.enabled", "auto") is True or mixed == "bf16",
        clipping=None if clipping == "auto" else float(clipping),
        tuned={name.removeprefix(ZERO): asked[name] for name in TUNED & asked.keys() if asked[name] != "auto"},
    )


def zero(state: Any, settings: Settings) -> Zero:
    """The processes of accelerate's `state`, which split the optimiser's state by DeepSpeed."""
    from deepspeed.accelerator import get_accelerator

    found = get_accelerator().device_name()
    if found != state.device.type:
        raise UsageError(
            "DeepSpeed and accelerate do not mean the same device",
            expected=state.device.type,
            got=found,
            next_step=f"set DS_ACCELERATOR={state.device.type} in the environment",
        )
    return Zero(rank=state.process_index, size=state.num_processes, on=state.device, settings=settings)


def config_of(settings: Settings) -> dict[str, Any]:
    """DeepSpeed's configuration for this loop: gradients are summed, and in float32; when a step ends is not its affair."""
    found: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_allreduce_op": "sum",
        "zero_optimization": {"stage": settings.stage, **settings.tuned},
    }
    if settings.half:
        # without the check DeepSpeed takes a step with gradients that are not finite
        found["bf16"] = {"enabled": True, "check_grad_overflow": True}
        found |= {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
    return found


def _ignored(name: str, accepted: tuple[Any, ...] | None, value: object) -> UsageError:
    return UsageError(
        f"{name} of DeepSpeed's configuration would be ignored",
        expected="left out" if accepted is None else " or ".join(map(str, accepted)),
        got=value,
        next_step=INSTEAD.get(name, INSTEAD.get(name.split(".")[0])),
    )


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _note(arrived: list[int], i: int, _: Tensor) -> None:
    arrived.append(i)


def _narrow(kept: Tensor, piece: Piece) -> Tensor:
    return kept[piece.at : piece.at + piece.numel]


def _cut(whole: Tensor, piece: Piece) -> Tensor:
    return whole.flatten()[piece.start : piece.start + piece.numel]
