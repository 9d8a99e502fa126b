"""Training in several processes: each works off its share of a step's rows, and gradients are added up once a step.

`accelerate launch` (or `torchrun`) starts the processes, and accelerate's state says who is who and on which device.
Its model wrappers stay out, because packed rows do not fit them: DistributedDataParallel averages over processes at every
backward pass and counts on as many of them everywhere, while a step here has as many rows as its tokens fill, each with a
weight of its own, and reads hidden states instead of calling the wrapped `forward`. Every process knows all items, so all
make the same rows, and a row is the same whoever computes it. Its loss carries its share of the whole batch (of its
tokens, or its items), so the sum of the gradients over processes is the gradient that one process computes: what differs
is the order of a sum, in the last digits.

Weights are whole in every process; `_sharded` splits them (FSDP), and `_deepspeed` the optimiser's state and gradients
(ZeRO), behind the same methods. What else accelerate's configuration asks for is refused rather than ignored (`processes`).
"""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from fivefold.align._masters import Masters
from fivefold.errors import MissingExtraError, TrainingError, UsageError

if TYPE_CHECKING:
    from fivefold.align._loop import TrainConfig

T = TypeVar("T")
BUCKET = 1 << 26
"""Numbers that are added up in one go."""
PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: a share of answers or of rewards takes its time. Who has died is seen by the
launcher, which then ends all."""
LOOKS, SECONDS_TO_REST = 5, 10.0
"""How often in a row gloo's threads are to be seen at rest, and how long that is waited for."""
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run, seen from the one numbered `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def parts(self) -> int:
        """Over how many processes every weight is split: one, unless weights are sharded."""
        return 1

    @property
    def stage(self) -> int | None:
        """Stage of ZeRO, where DeepSpeed takes the steps."""
        return None

    @property
    def copies(self) -> bool:
        """Whether `split` changes the parameters it is given (splits, casts or moves them), so that it needs a copy of
        the model's, and `whole` puts together what is to be saved."""
        return self.parts > 1

    @property
    def device(self) -> torch.device | None:
        """Where this process trains, or None: where the model is."""
        return None

    @property
    def computed_in(self) -> torch.dtype | None:
        """The dtype that weights are cast to before they are used, or None: their own."""
        return None

    @property
    def first(self) -> bool:
        """Whether this process writes the files and shows progress."""
        return self.rank == 0

    def numbers(self, each: int) -> float:
        """How many of the `each` numbers that training keeps for a trained parameter lie in this process."""
        return each / self.parts

    def mine(self, costs: Sequence[int]) -> list[int]:
        """Which pieces of work of known costs are this process's: the dearest first, each to who has least to do."""
        load, found = [0] * self.size, []
        for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
            to = load.index(min(load))
            load[to] += costs[i]
            if to == self.rank:
                found.append(i)
        return sorted(found)

    def idle(self, costs: Sequence[int]) -> list[int]:
        """Pieces that this process computes along with others and does not count: none, as it need not keep step."""
        return []

    def gathered(self, part: Mapping[int, T]) -> list[T]:
        """Numbered results of all processes, in the order of their numbers, in every process."""
        parts: list[Mapping[int, T]] = [part]
        if self.size > 1:
            parts = [{}] * self.size
            dist.all_gather_object(parts, part)
        found = {i: value for of_one in parts for i, value in of_one.items()}
        return [found[i] for i in sorted(found)]

    def prepared(
        self, params: Mapping[str, torch.nn.Parameter], config: TrainConfig
    ) -> tuple[torch.optim.AdamW, Masters]:
        """What takes the steps, and the numbers that they are taken on."""
        masters = Masters.of(params)
        stepped = masters.params.values()
        optimizer = torch.optim.AdamW(stepped, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
        return optimizer, masters

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one row's `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, masters: Masters, limit: float) -> float:
        """Take a step with the gradients of all processes, scaled down to a norm of at most `limit`, and drop them.

        Returns the norm that they had; where it is not finite, no step is taken.
        """
        self.add_up(masters.params)
        norm = self.clip(masters.params, limit)
        if math.isfinite(norm):
            optimizer.step()
            masters.round()
        optimizer.zero_grad()
        return norm

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """An optimiser's state as a checkpoint holds it: undivided, numbered as the trained parameters are."""
        found = optimizer.state_dict()
        found["state"] = {i: self.whole(state) for i, state in found["state"].items()}
        return found

    def put_back(self, optimizer: torch.optim.Optimizer, kept: Mapping[str, Any]) -> None:
        """Give an optimiser this process's part of what `moments` gave."""
        order = [p for group in optimizer.param_groups for p in group["params"]]
        state = {
            i: {name: self.part(t, order[i]) if t.shape == order[i].shape else t for name, t in of_one.items()}
            for i, of_one in kept["state"].items()
        }
        optimizer.load_state_dict({**kept, "state": state})

    def add_up(self, params: Mapping[str, Tensor]) -> None:
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

    def split(self, trained: Any, *beside: torch.nn.Module) -> None:
        """Share a model's weights, and those of modules beside it, out over the processes, where they are to be
        (`_sharded`); here they stay whole."""

    def clip(self, params: Mapping[str, Tensor], limit: float) -> float:
        """Scale the gradients down to a norm of at most `limit`; returns the norm that they had."""
        return float(torch.nn.utils.clip_grad_norm_(params.values(), limit))

    def keeping(self, due: bool) -> bool:
        """Whether this process takes part in a checkpoint, from whether its own clock calls for one."""
        return due and self.first

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors as a checkpoint holds them: undivided, on the CPU."""
        return {name: t.detach().cpu() for name, t in tensors.items()}

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """What this process holds of an undivided tensor, as it holds `like`."""
        return whole.to(like.device)

    def agree(self, what: str, value: object) -> None:
        """Raise TrainingError in every process unless all hold the same `value`; waits for all."""
        values = self.gathered({self.rank: value})
        if any(v != values[0] for v in values):
            raise TrainingError(
                f"the processes do not agree on {what}",
                expected="one output folder that all see, the same data and configuration",
                got=values,
            )

    def divided(self, n: int, work: Callable[[range], Sequence[T]]) -> list[T]:
        """What `work` gives for n things, each process at work on a run of them: all results, in order, in every process."""
        mine = shares(n, self.size)[self.rank]
        parts = self.gathered({self.rank: list(work(mine)) if mine else []})
        return [result for part in parts for result in part]

    def told(self, make: Callable[[], T]) -> T:
        """`make()` in the first process alone, and what it gave in every process; where it fails, all fail."""
        if self.size == 1:
            return make()
        value, error = list[T](), None
        if self.first:
            try:
                value = [make()]
            except Exception as raised:
                error = raised
        failed, found = self.gathered({0: (None if error is None else str(error), value)} if self.first else {})[0]
        if error is not None:
            raise error
        if failed is not None:
            raise TrainingError("the first process failed", got=failed)
        return found[0]


ALONE = Processes()


@dataclass(frozen=True, kw_only=True)
class InStep(Processes):
    """Processes that communicate at every row, so that each computes equally many and all take part in a checkpoint."""

    def mine(self, costs: Sequence[int]) -> list[int]:
        """Which pieces of work are this process's, dearest first: what all do at one time costs about as much."""
        return _dearest_first(costs)[self.rank :: self.size]

    def idle(self, costs: Sequence[int]) -> list[int]:
        """The cheapest piece where this process has one less to do than the first."""
        missing = -(-len(costs) // self.size) - len(self.mine(costs))
        return _dearest_first(costs)[-1:] * missing

    def add_up(self, params: Mapping[str, Tensor]) -> None:
        """Nothing: every backward pass has left the sum over the processes, or a step takes it."""

    def align(self, params: Mapping[str, Tensor]) -> None:
        """Nothing: each process has a part of its own, and `split` has seen that they belong together."""

    def keeping(self, due: bool) -> bool:
        """By the first process's clock, as all take part."""
        return self.gathered({0: due} if self.first else {})[0]


def processes(device: torch.device, *, shards: bool = False) -> Processes:
    """Who this process is among those that a launcher started; the model is on `device`.

    `shards`: whether the caller's training can run on weights that are split. Raises MissingExtraError without
    accelerate, UsageError for a configuration that this trainer would have to ignore, or when the model is not on the
    device where its process needs it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    _refuse(shards)
    if switched_on("ACCELERATE_USE_FSDP"):
        from fivefold.align._sharded import check_settings, sharded  # torch's FSDP takes seconds to import

        check_settings(device)
        return sharded(_state(cpu=not torch.cuda.is_available()))
    if deepspeed := switched_on("ACCELERATE_USE_DEEPSPEED"):
        from fivefold.align import _deepspeed

        settings = _deepspeed.settings()
    state = _state(cpu=device.type == "cpu")
    if device.type != "cpu" and device != state.device:
        raise UsageError(
            "the model is not on this process's device", expected=state.device, got=device, next_step="load it there"
        )
    if deepspeed:
        return _deepspeed.zero(state, settings)
    return Processes(rank=state.process_index, size=state.num_processes)


def leave() -> None:
    """End the group of processes while the interpreter still runs, once gloo's threads are at rest.

    They drop the last tensors they worked on when they get to it, and need the interpreter's lock for that: a thread that
    asks for it while the interpreter is being taken down is ended in a way that aborts the process, whose work was done.
    torch joins these threads only when nobody refers to the group any more, and its caches do.
    """
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    at_rest, until = 0, time.monotonic() + SECONDS_TO_REST
    while at_rest < LOOKS and time.monotonic() < until:
        time.sleep(0.01)  # the lock is free meanwhile: who waits for it gets it
        at_rest = 0 if _gloo_is_busy() else at_rest + 1


def _gloo_is_busy() -> bool:
    """Whether a thread of gloo's runs or waits for a core (by Linux's account; elsewhere nobody knows)."""
    for thread in Path("/proc/self/task").glob("*/stat"):
        with suppress(OSError):  # it has ended
            name, _, rest = thread.read_text().rpartition(")")
            if "(pt_gloo" in name and not rest.startswith(" S"):
                return True
    return False


def everyone() -> Processes:
    """The processes that a launcher started, whatever they are to do together: `ALONE` without one.

    Raises as `processes` does for a configuration that no training here can follow.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    _refuse(shards=True)
    if switched_on("ACCELERATE_USE_DEEPSPEED"):
        from fivefold.align import _deepspeed

        _deepspeed.settings()
    state = _state(cpu=not torch.cuda.is_available())
    return Processes(rank=state.process_index, size=state.num_processes)


def _state(*, cpu: bool) -> Any:
    """accelerate's account of the processes; the group that it starts ends with the interpreter."""
    if not dist.is_initialized():  # a group that the caller started is the caller's to end
        atexit.unregister(leave)
        atexit.register(leave)
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError("accelerate", "local") from error
    return PartialState(cpu=cpu, timeout=PATIENCE)


def switched_on(name: str) -> bool:
    """Whether a switch of accelerate's is on in the environment, where its launcher puts its configuration."""
    return os.environ.get(name, "").lower() in ("1", "true")


def _refuse(shards: bool) -> None:
    """Raise UsageError for settings of accelerate that this trainer would have to ignore."""
    if switched_on("ACCELERATE_USE_MEGATRON_LM"):
        raise UsageError(
            "Megatron-LM brings models, an optimiser and checkpoints of its own, which would replace this loop",
            expected="distributed_type FSDP, DEEPSPEED, MULTI_GPU, MULTI_CPU or NO in accelerate's configuration",
            next_step="split weights, gradients and the optimiser's state with FSDP (fsdp_version: 2)",
        )
    engines = {"FSDP": switched_on("ACCELERATE_USE_FSDP"), "DeepSpeed": switched_on("ACCELERATE_USE_DEEPSPEED")}
    for engine, asked in engines.items():
        if asked and not shards:
            raise UsageError(
                f"what {engine} splits is known to train, train_reward and train_steps alone",
                expected="distributed_type MULTI_GPU, MULTI_CPU or NO in accelerate's configuration",
                next_step="train an adapter (the base is frozen, and needs no gradients and no optimiser state)",
            )
    mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if mixed not in ("", "no", *(["bf16"] if any(engines.values()) else [])):
        raise UsageError(
            "the model's own numbers are what is computed with",
            expected="mixed_precision: no (bf16 with FSDP and DeepSpeed)",
            got=mixed,
            next_step="load the model in bfloat16 (dtype='bfloat16') where it should be computed in bfloat16",
        )


def shares(n: int, parts: int) -> list[range]:
    """The numbers of n things, cut into `parts` runs, as equal as they go."""
    return [range(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


def checksum(module: torch.nn.Module) -> int:
    """A number that differs where weights do (those of a process that loaded none, say), whatever the order of the sum."""
    params = [p.detach() for p in module.parameters()]
    return sum(int(p.view(INTEGERS[p.element_size()]).sum(dtype=torch.int64)) for p in params)


def _dearest_first(costs: Sequence[int]) -> list[int]:
    return sorted(range(len(costs)), key=lambda i: -costs[i])


def _buckets(params: list[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of parameters of one type and device, of about `BUCKET` numbers."""
    bucket: list[Tensor] = []
    for p in params:
        full = sum(q.numel() for q in bucket) + p.numel() > BUCKET
        if bucket and (full or (p.dtype, p.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket
