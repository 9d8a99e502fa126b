"""One forward pass over a packed row, and what is read from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fivefold.runtime import _attention
from fivefold.runtime._attention import KeysKnown
from fivefold.runtime._lean import find, lean
from fivefold.runtime._plan import Block, Plan, Prefix, Reading, attending, open_plan
from fivefold.runtime._stand_in import changing
from fivefold.runtime._structure import attention_configs, decoder_layers, keeps_logits
from fivefold.runtime.crew import Crew, crew

Hidden: TypeAlias = Callable[[Sequence[int], Sequence[int], Plan | None], list[Tensor]]
"""Token ids, positions, plan (None: an ordinary forward) → residual streams."""


FEW, ENOUGH = 5, 16
"""On a CPU the head takes longer for 5 to 15 rows than for 16 (MKL with AVX-512, 49152 x 576: 40 to 68 ms against 29), so as
many are asked for."""


class _Deep(Exception):
    """Raised by a hook to end the forward at the deepest layer that is read."""


@dataclass(eq=False)
class Engine:
    """A module with what is needed to run it: its lock, its layers, and whether packed rows hold for it.

    `lock` is shared by every handle on the same weights. `pack_tokens` is how many tokens a packed row aims at, `slots`
    how many sequences are decoded at once, `cache_bytes` the room for their keys and values, `workers` how many rows are
    computed side by side. `prunes` says whether the last layer may be run for the rows alone that are read.
    """

    module: nn.Module
    lock: threading.RLock
    pack_tokens: int = 1024
    slots: int = 64
    cache_bytes: int = 2 << 30
    workers: int = 1
    packed: bool = True
    prunes: bool = True

    def __post_init__(self) -> None:
        self.layers = decoder_layers(self.module)
        self._keeps_logits = keeps_logits(self.module)
        self._configs = attention_configs(self.module)
        self._lean = find(self.module) if self.device.type == "cpu" else []
        self._prepared = False

    @property
    def device(self) -> torch.device:
        """Where the embeddings live."""
        weight: Tensor = self.module.get_input_embeddings().weight  # type: ignore[operator]
        return weight.device

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the model's positions allow, None where it does not say."""
        config: Any = self.module.config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        length = getattr(text, "max_position_embeddings", None)
        return int(length) if length else None

    def token_bytes(self) -> int:
        """Bytes that the keys and values of one token being decoded take."""
        config: Any = self.module.config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        weight: Tensor = self.module.get_input_embeddings().weight  # type: ignore[operator]
        return (
            2 * len(self.layers) * int(heads) * int(head) * _attention.slot_dtype(weight.device, weight.dtype).itemsize
        )

    def forward(self, ids: Sequence[int], positions: Sequence[int], plan: Plan, read: Sequence[int]) -> Tensor:
        """Float32 logits [len(read), V] at rows `read` of one packed row of tokens.

        Where that is well less than the row, the last layer gives its keys and values for all rows and is run for these.
        """
        rows = sorted(set(read))
        with self._preparing():
            if 4 * len(rows) > 3 * len(ids) or not self._may_prune(plan):
                return self._whole(ids, positions, plan, read)
            at = {row: index for index, row in enumerate(rows)}
            with self._packing(), attending(plan), self._reading_only(plan, rows):
                return self._logits(ids, positions, [at[row] for row in read])

    def store(self, ids: Sequence[int], positions: Sequence[int], plan: Plan) -> None:
        """Compute a row for the keys and values that its blocks store, and nothing after those of the last layer."""
        with self._preparing():
            if not self._may_prune(plan):
                self._whole(ids, positions, plan, [0])
                return
            with self._packing(), attending(plan), self._reading_only(plan, []), suppress(_Deep):
                self._logits(ids, positions, [0])

    def _whole(self, ids: Sequence[int], positions: Sequence[int], plan: Plan, read: Sequence[int]) -> Tensor:
        with self._packing(), attending(plan):
            return self._logits(ids, positions, read)

    def _may_prune(self, plan: Plan) -> bool:
        """Whether nobody needs the other rows: no gradient, no decoding, no hook of others in the last layer."""
        if not self.prunes or plan.decode or torch.is_grad_enabled():
            return False
        hooks = (
            h for m in self.layers[-1].modules() for h in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())
        )
        return all(hook is _only_read for hook in hooks)

    @contextmanager
    def _preparing(self) -> Iterator[None]:
        """The hook that runs the last layer for the rows that are read, and lean norms and MLPs: put there once, whichever
        threads compute inside."""
        if self._prepared:
            yield
            return
        with changing:
            handle = self.layers[-1].register_forward_pre_hook(_only_read, with_kwargs=True)
        self._prepared = True
        try:
            with lean(self._lean):
                yield
        finally:
            with changing:
                handle.remove()
            self._prepared = False

    @contextmanager
    def _reading_only(self, plan: Plan, rows: Sequence[int]) -> Iterator[None]:
        """The last layer asked for `rows` alone."""
        plan.reading = Reading(torch.tensor(rows, dtype=torch.long, device=self.device))
        try:
            yield
        finally:
            plan.reading = None

    @contextmanager
    def crew(self, workers: int | None = None) -> Iterator[Crew]:
        """Threads on which `forward` may be called side by side; `workers` of them, None for as many as there should be."""
        with self._packing(), self._preparing(), crew(self.workers if workers is None else workers) as team:
            yield team

    @contextmanager
    def _packing(self) -> Iterator[None]:
        """The registered attention function for the time of a call; the module is as it was for everybody else."""
        before = [config._attn_implementation for config in self._configs]
        for config in self._configs:
            config._attn_implementation = _attention.NAME
        try:
            yield
        finally:
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation = name

    def plain(self, ids: Sequence[int], read: Sequence[int]) -> Tensor:
        """Logits of one sequence by the module's ordinary forward: the reference, and the way of old architectures."""
        return self._logits(ids, range(len(ids)), read)

    def _logits(self, ids: Sequence[int], positions: Sequence[int], read: Sequence[int]) -> Tensor:
        device = self.device
        filler = ENOUGH - len(read) if FEW <= len(read) < ENOUGH and self._head_is_plain() else 0
        rows = torch.tensor([*read, *[0] * filler], dtype=torch.long, device=device)
        keep: dict[str, Any] = {"logits_to_keep": rows} if self._keeps_logits and len(rows) else {}
        out = self.module(
            input_ids=torch.tensor([list(ids)], dtype=torch.long, device=device),
            position_ids=torch.tensor([list(positions)], dtype=torch.long, device=device),
            use_cache=False,
            **keep,
        )
        logits: Tensor = out.logits[0] if keep else out.logits[0, rows]
        return logits[: len(read)].float()

    def _head_is_plain(self) -> bool:
        """Whether the head is multiplied on a CPU by weights that are not prepacked."""
        return self.device.type == "cpu" and "forward" not in vars(self.module.get_output_embeddings())  # type: ignore[operator]

    @contextmanager
    def reading(self, layers: Sequence[int]) -> Iterator[Hidden]:
        """A function, for any thread of a crew, that gives the residual stream [T, D] after each of `layers`; nothing is
        computed after the deepest of them."""
        caught = threading.local()

        def hidden(ids: Sequence[int], positions: Sequence[int], plan: Plan | None) -> list[Tensor]:
            caught.streams = {}
            try:
                if plan is None:
                    self._logits(ids, positions, [0])
                else:
                    self._whole(ids, positions, plan, [0])
            except _Deep:
                pass
            streams: dict[int, Tensor] = caught.__dict__.pop("streams")
            return [streams[layer] for layer in layers]

        with _catching(self.layers, layers, caught):
            yield hidden

    def check_packing(self) -> bool:
        """Whether a packed row gives what separate forwards give, on this very module.

        Two short sequences with a shared start are run both ways. Architectures that do not take a registered attention
        function (or read positions in another way) are found here, and run one sequence at a time; those whose last
        layer cannot be run for some of the rows are run for all.
        """
        vocab = int(self.module.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
        first, second = ([(7 * i + k) % vocab for i in range(1, 9)] for k in (3, 11))
        shared = [(5 * i + 1) % vocab for i in range(1, 6)]
        apart = torch.cat([self.plain([*shared, *tail], [len(shared) + 7]) for tail in (first, second)])
        for self.prunes in (True, False):
            try:
                together = self._packed_probe(shared, first, second)
            except (_attention.UnsupportedAttention, RuntimeError, TypeError, ValueError, KeyError, IndexError):
                continue
            if self._close(together, apart):
                return True
        return False

    def _close(self, together: Tensor, apart: Tensor) -> bool:
        tolerance = 1e-3 if apart.dtype == torch.float32 and self._is_float32() else 5e-2
        return bool((together - apart).abs().max() <= tolerance * apart.abs().max().clamp(min=1.0))

    def _is_float32(self) -> bool:
        weight: Tensor = self.module.get_input_embeddings().weight  # type: ignore[operator]
        return weight.dtype == torch.float32

    def _packed_probe(self, shared: list[int], first: list[int], second: list[int]) -> Tensor:
        prefix = Prefix(len(shared))
        block = Block(0, len(shared), torch.arange(len(shared)), store=prefix)
        self.store(shared, range(len(shared)), Plan([block]))
        n, start = len(first), len(shared)
        own = torch.arange(start, start + n)
        plan = Plan([Block(0, n, own, prefix=prefix), Block(n, 2 * n, own, prefix=prefix)])
        positions = [*own.tolist(), *own.tolist()]
        if len(prefix.keys) != len(self.layers):
            raise _attention.UnsupportedAttention("not every decoder layer went through the registered attention")
        return self.forward([*first, *second], positions, plan, [n - 1, 2 * n - 1])


def _only_read(layer: nn.Module, args: Any, kwargs: Any) -> Any:
    """A forward pre-hook: the layer gives its keys and values for every row, and goes on with those that are read."""
    plan = open_plan()
    reading = plan.reading if plan is not None else None
    if reading is None or reading.keys is not None:
        return None
    reading.gathering = True
    try:
        layer.forward(*args, **kwargs)
    except KeysKnown:
        pass
    finally:
        reading.gathering = False
    if reading.keys is None:
        raise _attention.UnsupportedAttention("the last layer does not go through the registered attention")
    if not len(reading.rows):
        raise _Deep
    return _at(args, reading), _at(kwargs, reading)


def _at(value: Any, reading: Reading) -> Any:
    """A layer's arguments at the rows that are read: tensors that have all rows as second dimension, wherever."""
    assert reading.keys is not None
    if isinstance(value, Tensor):
        per_row = value.dim() > 1 and value.shape[1] == reading.keys.shape[2]
        return value.index_select(1, reading.rows) if per_row else value
    if isinstance(value, tuple | list):
        return type(value)(_at(x, reading) for x in value)
    return {key: _at(x, reading) for key, x in value.items()} if isinstance(value, dict) else value


@contextmanager
def _catching(modules: nn.ModuleList, layers: Sequence[int], caught: threading.local) -> Iterator[None]:
    deepest = max(layers)

    def hook(layer: int) -> Callable[..., None]:
        def catch(module: nn.Module, args: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            caught.streams[layer] = stream[0].detach().float()
            if layer == deepest:
                raise _Deep

        return catch

    handles = [modules[layer].register_forward_hook(hook(layer)) for layer in sorted(set(layers))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
