"""Training in several processes: each works off its share of a step's rows, and gradients are added up once a step.

`accelerate launch` (or `torchrun`) starts the processes, and accelerate's state says who is who and on which device.
Its model wrappers stay out, because packed rows do not fit them: DistributedDataParallel averages over processes at every
backward pass and counts on as many of them everywhere, while a step here has as many rows as its tokens fill, each with a
weight of its own, and reads hidden states instead of calling the wrapped `forward`. Every process knows all items, so all
make the same rows, and a row is the same whoever computes it. Its loss carries its share of the whole batch (of its
tokens, or its items), so the sum of the gradients over processes is the gradient that one process computes: what differs
is the order of a sum, in the last digits.

Weights are whole in every process. FSDP and DeepSpeed, which split them, are refused (`processes`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from fivefold.errors import MissingExtraError, TrainingError, UsageError

T = TypeVar("T")
BUCKET = 1 << 26
"""Numbers that are added up in one go."""
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run, seen from the one numbered `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files and shows progress."""
        return self.rank == 0

    def mine(self, costs: Sequence[int]) -> list[int]:
        """Which pieces of work of known costs are this process's: the dearest first, each to who has least to do."""
        load, found = [0] * self.size, []
        for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
            to = load.index(min(load))
            load[to] += costs[i]
            if to == self.rank:
                found.append(i)
        return sorted(found)

    def gathered(self, part: Mapping[int, T]) -> list[T]:
        """Numbered results of all processes, in the order of their numbers, in every process."""
        parts: list[Mapping[int, T]] = [part]
        if self.size > 1:
            parts = [{}] * self.size
            dist.all_gather_object(parts, part)
        found = {i: value for of_one in parts for i, value in of_one.items()}
        return [found[i] for i in sorted(found)]

    def add_up(self, params: Mapping[str, torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; a process without rows has none, and adds zero."""
        if self.size == 1:
            return
        for bucket in _buckets(list(params.values())):
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])
            dist.all_reduce(flat)
            for p, part in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                p.grad = part.view_as(p)

    def align(self, params: Mapping[str, Tensor]) -> None:
        """Give every process the first one's values."""
        if self.size > 1:
            with torch.no_grad():
                for p in params.values():
                    dist.broadcast(p.data, 0)

    def agree(self, what: str, value: object) -> None:
        """Raise TrainingError in every process unless all hold the same `value`; waits for all."""
        values = self.gathered({self.rank: value})
        if any(v != values[0] for v in values):
            raise TrainingError(
                f"the processes do not agree on {what}",
                expected="one output folder that all see, the same data and configuration",
                got=values,
            )

    def told(self, make: Callable[[], T]) -> T | None:
        """`make()` in the first process alone (None elsewhere) while the others wait; where it fails, all fail."""
        value, error = None, None
        if self.first:
            try:
                value = make()
            except Exception as raised:
                error = raised
        failed = self.gathered({0: None if error is None else str(error)} if self.first else {})[0]
        if error is not None:
            raise error
        if failed is not None:
            raise TrainingError("the first process failed", got=failed)
        return value


ALONE = Processes()


def processes(device: torch.device) -> Processes:
    """Who this process is among those that a launcher started; the model is on `device`.

    Raises MissingExtraError without accelerate, UsageError for a configuration that splits weights or changes their
    numbers, or when the model is not on this process's own device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    _refuse()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError("accelerate", "local") from error
    state = PartialState(cpu=device.type == "cpu")
    if device.type != "cpu" and device != state.device:
        raise UsageError(
            "the model is not on this process's device", expected=state.device, got=device, next_step="load it there"
        )
    return Processes(rank=state.process_index, size=state.num_processes)


def _refuse() -> None:
    """Raise UsageError for settings of accelerate that this trainer would have to ignore."""
    for name, engine in REFUSED.items():
        if os.environ.get(name, "").lower() in ("1", "true"):
            raise UsageError(
                f"{engine} does not fit packed rows: it splits weights that several copies of the model share here",
                expected="distributed_type MULTI_GPU, MULTI_CPU or NO in accelerate's configuration",
                next_step="train an adapter (the base is frozen, and needs no gradients and no optimiser state)",
            )
    mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if mixed not in ("", "no"):
        raise UsageError(
            "the model's own numbers are what is computed with",
            expected="mixed_precision: no",
            got=mixed,
            next_step="load the model in bfloat16 (dtype='bfloat16') where it should be computed in bfloat16",
        )


def one_process(what: str) -> None:
    """Raise UsageError where a launcher started several processes for something that runs in one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"{what} runs in one process",
            got=f"WORLD_SIZE={os.environ['WORLD_SIZE']}",
            next_step="start it without accelerate launch or torchrun",
        )


def _buckets(params: list[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Runs of parameters of one type and device, of about `BUCKET` numbers."""
    bucket: list[torch.nn.Parameter] = []
    for p in params:
        full = sum(q.numel() for q in bucket) + p.numel() > BUCKET
        if bucket and (full or (p.dtype, p.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket
