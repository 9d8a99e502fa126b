"""Samples drawn on many machines: Ray workers that each hold the policy and draw their share of a round's prompts.

Every worker loads the base model by the name the trainer loaded it by, and proves by the fingerprint that it is the same.
The adapter's files travel once, its numbers every round (through Ray's object store, once a machine). Each sample has the
random numbers that it has in one process (`_rollouts`), so that a round is the same however many workers draw it, but for
the last bits of logits. The prompts of a worker that is lost are drawn by the others.

Source: Moritz et al. 2018, Ray (arXiv:1712.05889).
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fivefold.align import _ranges
from fivefold.align._adapter import causal_lm, save_trained, trainable, trainable_copy
from fivefold.align._pack import Item
from fivefold.align._processes import shares
from fivefold.align._rollouts import Answer, Sampler, copy_of, rolled_out
from fivefold.align.rewards import Sample
from fivefold.errors import FivefoldError, MissingExtraError, TrainingError, UsageError
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Case

LOG = logging.getLogger("fivefold.align")


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Workers that draw samples, and what each of them needs."""

    workers: int = 0
    """How many; 0: the trainer draws its samples itself."""
    address: str | None = None
    """Of a cluster that runs: `auto` (this machine belongs to it) or `ray://host:10001`; None: RAY_ADDRESS, else Ray is started
    on this machine and ended with the run."""
    cpus: int = 1
    """Cores of one worker, and the threads it computes with."""
    gpus: float = 0.0
    """GPUs of one worker; below 1 several share one."""
    start_seconds: float = 600.0
    """How long to wait for all workers to have loaded the model."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "workers", least=0)
        _ranges.counts(self, "cpus")
        _ranges.numbers(self, "gpus", below=True)
        _ranges.numbers(self, "start_seconds", above=True)


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to build the policy and to draw from it."""

    spec: str
    options: Mapping[str, Any]
    fingerprint: str
    adapter: Mapping[str, bytes]
    sampling: Mapping[str, Any]


class Worker:
    """One worker: the base model, the policy over it, and a sampler. Runs in a process of Ray's."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.version = recipe, -1

    def ready(self) -> None:
        """Load the model, and return when that is done."""
        import fivefold

        recipe = self.recipe
        model: Any = fivefold.load(recipe.spec, **recipe.options)
        if model.fingerprint != recipe.fingerprint:
            raise UsageError(
                f"a Ray worker's {recipe.spec} is another model than the trainer's",
                expected=recipe.fingerprint[:16],
                got=model.fingerprint[:16],
                next_step="name a model that is the same on all machines: hf:org/name@revision, or a folder that all see",
            )
        self.trained = _built(model, recipe.adapter)
        copied = copy_of(self.trained, model.module)
        self.sampler = Sampler(model, causal_lm(self.trained), copied=copied, **recipe.sampling)

    def draw(
        self, version: int, weights: Mapping[str, Tensor], cases: Sequence[Case], number: int, first: int
    ) -> list[Answer]:
        """G answers to each case, of which the first is number `first` of its round, from the policy with `weights`."""
        if version != self.version:
            with torch.no_grad():
                for name, p in trainable(self.trained).items():
                    p.copy_(weights[name])
            self.sampler.refresh(version)
            self.version = version
        return self.sampler.answers(cases, number, first)


class RaySampler:
    """Draws from workers that are given the policy's weights every round; stands in for `_rollouts.Sampler`."""

    def __init__(
        self,
        model: WhiteBox,
        trained: Any,
        config: RayConfig,
        *,
        samples: int,
        limit: int,
        temperature: float,
        seed: int,
    ) -> None:
        self.model, self.trained, self.config, self.samples, self.seed = model, trained, config, samples, seed
        self.ray, self.ours = _connected(config)
        sampling = {"samples": samples, "limit": limit, "temperature": temperature, "seed": seed}
        recipe = Recipe(model.name, _options(model, config), model.fingerprint, _files(trained), sampling)
        kind = self.ray.remote(Worker).options(num_cpus=config.cpus, num_gpus=config.gpus, max_restarts=0)
        given = self.ray.put(recipe)
        self.workers: list[Any] = [kind.remote(given) for _ in range(config.workers)]
        self.version, self.weights = 0, None
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def refresh(self, number: int) -> None:
        """Put the policy's weights as they stand where the workers find them."""
        self.version += 1
        self.weights = self.ray.put({name: p.detach().cpu() for name, p in trainable(self.trained).items()})

    def draw(self, cases: Sequence[Case], number: int) -> tuple[list[Item], list[Sample]]:
        """G answers to each case in round `number`."""
        if self.weights is None:
            self.refresh(number)
        found: dict[int, list[Answer]] = {}
        waiting = deque(share for share in shares(len(cases), max(1, len(self.workers))) if share)
        running = dict[Any, tuple[Any, range]]()
        idle = deque(self.workers)
        while waiting or running:
            while waiting and idle:
                worker, share = idle.popleft(), waiting.popleft()
                part = [cases[i] for i in share]
                asked = worker.draw.remote(self.version, self.weights, part, number, share.start)
                running[asked] = worker, share
            if not running:
                raise TrainingError("no Ray worker is left to draw samples", next_step="see why they ended: ray logs")
            (done, *_), _ = self.ray.wait(list(running))
            worker, share = running.pop(done)
            try:
                found[share.start] = self.ray.get(done)
                idle.append(worker)
            except self.ray.exceptions.RayActorError as error:
                LOG.warning("a Ray worker was lost, the others draw its %d prompts: %s", len(share), error)
                self.workers.remove(worker)
                waiting.append(share)
            except self.ray.exceptions.RayTaskError as error:
                raise _raised("a Ray worker could not draw its samples", error) from error
        return rolled_out(self.model, cases, [a for at in sorted(found) for a in found[at]], self.samples)

    def close(self) -> None:
        """End the workers, and Ray where it was started for this run."""
        for worker in self.workers:
            self.ray.kill(worker)
        self.workers = []
        if self.ours:
            self.ray.shutdown()

    def _wait(self) -> None:
        """Until all workers have loaded the model; raises what went wrong in one that could not."""
        asked = [worker.ready.remote() for worker in self.workers]
        done, late = self.ray.wait(asked, num_returns=len(asked), timeout=self.config.start_seconds)
        try:
            self.ray.get(done)
        except self.ray.exceptions.RayError as error:
            raise _raised("a Ray worker could not be started", error) from error
        if late:
            raise UsageError(
                f"{len(late)} of {len(asked)} Ray workers were not ready after {self.config.start_seconds:g} seconds",
                expected=f"{self.config.cpus} cores and {self.config.gpus:g} GPUs free for each",
                got=f"a cluster with {_resources(self.ray.available_resources())} free now",
                next_step="ask for fewer workers, or give them more time (ray.start_seconds)",
            )


def _connected(config: RayConfig) -> tuple[Any, bool]:
    """Ray, joined or started as `config` says, and whether it is ours to end."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    if ray.is_initialized():
        return ray, False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports each start to its makers
    try:
        ray.init(address=config.address, log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"no Ray cluster at {config.address}", got=error, next_step="ray start --head; ray.address=auto"
        ) from error
    return ray, True


def _options(model: Any, config: RayConfig) -> dict[str, Any]:
    """How a worker loads the model."""
    known = getattr(model, "options", None)
    found = {name: getattr(known, name, None) for name in ("revision", "trust")}
    dtype = str(model.module.dtype).removeprefix("torch.")
    return {**{k: v for k, v in found.items() if v}, "dtype": dtype, "device": "cuda" if config.gpus else "cpu"}


def _files(trained: Any) -> dict[str, bytes]:
    """The policy's adapter as files."""
    with tempfile.TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in save_trained(trained, Path(folder)).iterdir()}


def _built(model: WhiteBox, adapter: Mapping[str, bytes]) -> Any:
    """The policy over a worker's model."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in adapter.items():
            (Path(folder) / name).write_bytes(content)
        return trainable_copy(model.module, None, Path(folder))


def _raised(what: str, error: BaseException) -> FivefoldError:
    """Our own error as it was raised in a worker, any other as the cause of a TrainingError."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, FivefoldError) else TrainingError(what, got=repr(cause or error))


def _resources(found: Mapping[str, float]) -> str:
    return f"{found.get('CPU', 0):g} cores and {found.get('GPU', 0):g} GPUs"
