"""Weights split over the processes: FSDP, as accelerate's configuration asks for it, by torch's `fully_shard`.

Each of N processes keeps 1/N of every weight, gradient, moment and average. A decoder layer is gathered when a row passes
through it and let go of again; what lies outside the layers (embeddings, last norm, head) is gathered while a row is
computed, which the trainer marks with `_policy.entered`, as packed rows never call the model's own `forward`. Gathering
takes all processes at once, so each computes equally many rows, and who has one less computes one that does not count.
Gradients are added up where they are split, in float32: rows carry their share of the batch, so sums are wanted, not means.

The model that is handed in stays whole, on the CPU, and is left alone; only the split copy is on the accelerators.
Checkpoints and adapters hold undivided tensors, so that a run may go on in any number of processes, split or not.
Source: Zhao et al. 2023 (arXiv:2304.11277); torch's FSDP2 splits each parameter by itself, along its first dimension.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from fivefold.align._adapter import causal_lm
from fivefold.align._processes import InStep, checksum
from fivefold.errors import TrainingError, UsageError
from fivefold.runtime._structure import decoder_layers

T = TypeVar("T")
ACCEPTED = {
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "false",
}
"""Settings of accelerate with what is done here; unset is fine but for the version, of which 1 is accelerate's default."""
SUMS = MixedPrecisionPolicy(reduce_dtype=torch.float32)
"""Nothing is cast but gradients for their sum over the processes."""


@dataclass(frozen=True, kw_only=True)
class Shards(InStep):
    """Processes that each hold a part of every weight, over a `mesh` of one dimension."""

    mesh: DeviceMesh = field(compare=False)
    on: torch.device
    policy: MixedPrecisionPolicy = SUMS

    @property
    def parts(self) -> int:
        """Over how many processes every weight is split."""
        return self.size

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.on

    @property
    def computed_in(self) -> torch.dtype | None:
        """The dtype that weights are cast to when they are gathered, or None: their own."""
        return self.policy.param_dtype

    def clip(self, params: Mapping[str, Tensor], limit: float) -> float:
        """Scale the gradients down to a norm of at most `limit` over all parts; returns the norm that they had."""
        norm = torch.nn.utils.clip_grad_norm_(params.values(), limit)
        return float(cast(DTensor, norm).full_tensor())

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors put together, on the CPU; the first process gets them, the others help and get none."""
        found = {}
        for name, t in tensors.items():
            full = (t.full_tensor() if isinstance(t, DTensor) else t).detach()
            if self.first:
                found[name] = full.cpu()
        return found

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """This process's part of a tensor that all processes have whole."""
        if not isinstance(like, DTensor):
            return whole.to(like.device)
        return distribute_tensor(whole.to(self.on), like.device_mesh, like.placements, src_data_rank=None)

    def split(self, trained: Any, *beside: nn.Module) -> None:
        """Split the weights of a model made with `trainable_copy(..., split=True)`, layer by layer, and of modules
        beside it that are called by themselves (a head, which is computed in its own dtype)."""
        what = "the weights to be split (one may have loaded none, for fsdp_cpu_ram_efficient_loading)"
        self.agree(what, [checksum(m) for m in (trained, *beside)])
        module = causal_lm(trained)
        for part in (*decoder_layers(module), module):
            self._split(part, self.policy)
        for part in beside:
            self._split(part, SUMS)
        module.within = _call
        register_fsdp_forward_method(module, "within")
        _all_split(trained)
        # the first use settles which weights have gradients: it must not be one with the adapter switched off
        module.within(lambda: None)
        for part in (m for m in module.modules() if isinstance(m, FSDPModule)):
            part.unshard()
            part.reshard()

    def _split(self, part: Any, policy: MixedPrecisionPolicy) -> None:
        # let go of after every pass, or what is changed between passes (an average, shown) would not be gathered again
        fully_shard(part, mesh=self.mesh, reshard_after_forward=True, mp_policy=policy)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
        part.set_reduce_scatter_unused_params(True, recurse=False)


def check_settings(device: torch.device) -> None:
    """Raise UsageError for settings of FSDP that would have to be ignored, or for a model (on `device`) that does not lie
    on the CPU."""
    for name, value in ACCEPTED.items():
        found = os.environ.get(name, "1" if name == "FSDP_VERSION" else value)
        if found.lower() != value.lower():
            raise UsageError(f"{name} of accelerate's configuration would be ignored", expected=value, got=found)
    if device.type != "cpu":
        raise UsageError(
            "a model whose weights are to be split must not lie whole on every accelerator",
            expected="cpu",
            got=device,
            next_step="load it with device='cpu'",
        )


def sharded(state: Any) -> Shards:
    """The processes of accelerate's `state`, which split weights as its configuration in the environment says."""
    half = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower() == "bf16"
    return Shards(
        rank=state.process_index,
        size=state.num_processes,
        mesh=init_device_mesh(state.device.type, (state.num_processes,)),
        on=state.device,
        policy=replace(SUMS, param_dtype=torch.bfloat16) if half else SUMS,
    )


def _call(compute: Callable[[], T]) -> T:
    return compute()


def _all_split(trained: nn.Module) -> None:
    whole = [name for name, p in trained.named_parameters() if not isinstance(p, DTensor)]
    if whole or not isinstance(causal_lm(trained), FSDPModule):
        raise TrainingError(f"weights of {type(trained).__name__} lie outside its causal LM", got=whole[:3])
