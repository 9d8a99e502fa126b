"""The layers below the first adapter never change, so what they compute is computed once per item and kept; where
several modules stand on the same base (policy, reference, critic), once for all of them (`lifted`).

Exact: the kept values are the residual stream that enters the first adapted layer, so epochs, stages' reference passes
and gradients are what they would be without this; only the time differs. With adapters in the upper third of a model
and two passes over the data this saves about a quarter of the work.

Shapes: T tokens of a row, D width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fivefold.align._pack import Item, Row, even_rows, pack
from fivefold.runtime._plan import attending
from fivefold.runtime._structure import decoder_layers
from fivefold.runtime.crew import side_by_side, workers_of


class _Skip(nn.Module):
    """Stands where a layer was, with the attributes that the model's loop reads, and passes the stream on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, value in vars(layer).items():
            if not name.startswith("_") and name not in ("training", "forward"):
                setattr(self, name, value)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The stream, unchanged."""
        return hidden_states


class _Reached(Exception):
    """Ends the forward pass at the first adapted layer, with the stream [T, D] that enters it."""

    def __init__(self, stream: Tensor) -> None:
        self.stream = stream


class Lower:
    """The frozen layers below `first` of `module`, taken out of it; `module` then starts from their kept output."""

    def __init__(self, module: Any, first: int, row_tokens: int, kept: dict[Item, Tensor] | None = None) -> None:
        self.module, self.first, self.row_tokens = module, first, row_tokens
        self._layers = decoder_layers(module)
        self._taken = [self._layers[i] for i in range(first)]
        self._kept: dict[Item, Tensor] = {} if kept is None else kept
        self._put([_Skip(layer) for layer in self._taken])

    def keep(self, items: Sequence[Item]) -> None:
        """Compute what is not known yet of `items`. Values depend on what shares a row in the last digit only."""
        missing = [item for item in dict.fromkeys(items) if item not in self._kept]
        if not missing:
            return

        def compute(indices: Sequence[int]) -> None:
            row = pack([missing[i] for i in indices])
            stream = self._compute(row)
            for i, (start, stop, _) in zip(indices, row.blocks, strict=True):
                self._kept[missing[i]] = torch.cat([stream[: row.shared], stream[start:stop]])

        workers = workers_of(self.module.get_input_embeddings().weight.device)
        with self._whole():
            side_by_side([partial(compute, row) for row in even_rows(missing, self.row_tokens, workers)], workers)

    def __call__(self, items: Sequence[Item], row: Row) -> Tensor:
        """The stream [T, D] of a row of `items` as it enters the first adapted layer."""
        self.keep(items)
        own = [self._kept[item][row.shared :] for item in items]
        return torch.cat([self._kept[items[0]][: row.shared], *own])

    def put_back(self) -> None:
        """Give the module its lower layers again."""
        self._put(self._taken)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """The module with its lower layers, and with a forward pass that ends above them."""

        def reached(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached((args[0] if args else kwargs["hidden_states"])[0])

        self.put_back()
        hook = self._layers[self.first].register_forward_pre_hook(reached, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
            self._put([_Skip(layer) for layer in self._taken])

    @torch.no_grad()
    def _compute(self, row: Row) -> Tensor:
        device = self.module.get_input_embeddings().weight.device
        try:
            with attending(row.plan()):
                self.module.base_model(
                    input_ids=row.tokens[None].to(device), position_ids=row.depth[None].to(device), use_cache=False
                )
        except _Reached as end:
            return end.stream
        raise AssertionError("the forward pass did not reach its layers")

    def _put(self, layers: Sequence[nn.Module]) -> None:
        for i, layer in enumerate(layers):
            self._layers[i] = layer


def first_trained(module: Any) -> int:
    """The first decoder layer with something to train: below it the layers are the base's."""
    layers = decoder_layers(module)
    return next((i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())), len(layers))


@contextmanager
def lifted(modules: Sequence[Any], items: Sequence[Item], first: int, row_tokens: int) -> Iterator[Lower | None]:
    """Within, modules over the same frozen layers below `first` all start above them, from what is computed once for
    `items`; afterwards they are as they were. None where there is nothing below."""
    if not first:
        yield None
        return
    kept: dict[Item, Tensor] = {}
    lowers = [Lower(module, first, row_tokens, kept) for module in modules]
    try:
        lowers[0].keep(items)
        yield lowers[0]
    finally:
        for lower in lowers:
            lower.put_back()
