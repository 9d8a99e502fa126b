"""A model with a scalar head in place of its vocabulary: reward models and critics.

Trunk and head: an adapter of its own over the shared, frozen base, and a linear map from the final hidden state to K
numbers. Shapes: R positions that are read of a packed row, D width, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fivefold.align import _checkpoint
from fivefold.align._adapter import Lora, causal_lm, save_trained, trainable, trainable_copy
from fivefold.align._loop import Done
from fivefold.align._lower import Lower
from fivefold.align._pack import Item, Row, pack, rows_of
from fivefold.align._policy import answer_states, entered
from fivefold.align._processes import ALONE, Processes
from fivefold.runtime._structure import width
from fivefold.types import plain

HEAD = "head.safetensors"


@dataclass(eq=False)
class Scalar:
    """A trunk with a head of K outputs."""

    trained: Any
    head: nn.Linear

    @classmethod
    def fresh(
        cls,
        module: Any,
        lora: Lora,
        outputs: int,
        start: Path | None = None,
        *,
        checkpointing: bool = False,
        together: Processes = ALONE,
    ) -> Scalar:
        """On `module`'s weights with a new adapter, or the one in `start` (with its head where it has one).

        A new head is drawn with variance 1 / (D + 1)^2 (Stiennon et al. 2020), so that outputs start near 0. Trunk and
        head are split over the processes where `together` splits weights.
        """
        lora_ = lora if start is None else None
        trained = trainable_copy(module, lora_, start, checkpointing=checkpointing, split=together.copies)
        weight = module.get_input_embeddings().weight
        head = nn.Linear(width(module), outputs, device=weight.device)
        nn.init.normal_(head.weight, std=1 / (width(module) + 1))
        nn.init.zeros_(head.bias)
        made = cls(trained, head)
        if start is not None and (start.parent / HEAD).exists():
            head.load_state_dict(load_file(start.parent / HEAD))
        together.split(trained, head)
        return made

    def parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, by name."""
        return {**trainable(self.trained), **{f"head.{n}": p for n, p in self.head.named_parameters()}}

    def values(self, row: Row, stream: Tensor | None = None) -> Tensor:
        """Float32 outputs [R, K] where answer tokens are predicted: a critic's values before each token. `stream`: what
        enters the first adapted layer, where that is known already (`_lower`)."""
        return self.at(row, slice(None), stream)

    def at_ends(self, row: Row) -> Tensor:
        """Float32 outputs [answers, K] at the last token of each answer of a row made by `pack_ends`."""
        ends = [of_item[i].stop - 1 for of_item in row.answers for i in range(len(of_item))]
        return self.at(row, ends)

    def at(self, row: Row, where: Sequence[int] | slice, stream: Tensor | None = None) -> Tensor:
        """Float32 outputs [n, K] at places `where` among the R positions of a row that are read."""
        module = causal_lm(self.trained)
        states = entered(module, lambda: answer_states(module, row, stream))
        out: Tensor = self.head(states[where].float())
        return out

    @torch.no_grad()
    def score(self, items: Sequence[Item], row_tokens: int) -> Tensor:
        """Outputs [items, answers, K] at the last token of every answer; all items have as many answers."""
        found: dict[int, Tensor] = {}
        for indices in rows_of(items, row_tokens):
            row = pack_ends([items[i] for i in indices])
            outputs = self.at_ends(row).cpu()
            parts = outputs.reshape(len(indices), -1, outputs.shape[-1])
            found |= dict(zip(indices, parts, strict=True))
        return torch.stack([found[i] for i in range(len(items))])

    @torch.no_grad()
    def values_of(self, items: Sequence[Item], row_tokens: int, lower: Lower | None = None) -> list[Tensor]:
        """The first output before each token of every answer: for each item, for each answer, a tensor of its tokens."""
        found: dict[int, list[Tensor]] = {}
        for indices in rows_of(items, row_tokens):
            of_row = [items[i] for i in indices]
            row = pack(of_row)
            values = self.values(row, lower(of_row, row) if lower else None)[:, 0].cpu()
            found |= {i: [values[p] for p in parts] for i, parts in zip(indices, row.answers, strict=True)}
        return [v for i in range(len(items)) for v in found[i]]

    def save(self, out: Path, weights: Mapping[str, Tensor] | None = None) -> Path:
        """Write `out/adapter` and the head beside it; returns the adapter's folder. `weights`: those of `parameters`,
        undivided, where they are split over processes."""
        path = save_trained(self.trained, out, weights)
        head = {name: (weights[f"head.{name}"] if weights else p) for name, p in self.head.named_parameters()}
        save_file({name: p.detach().cpu().contiguous() for name, p in head.items()}, out / HEAD)
        return path


def settle(scalar: Scalar, record: Path, done: Done, about: Mapping[str, Any], together: Processes = ALONE) -> None:
    """Write a trained scalar model and then its record (`about` and what the loop says), and drop its checkpoint.

    Called in all processes: the first one writes.
    """
    weights = together.whole(scalar.parameters()) if together.copies else None
    together.told(lambda: _settle(scalar, record, done, about, weights))


def _settle(
    scalar: Scalar, record: Path, done: Done, about: Mapping[str, Any], weights: Mapping[str, Tensor] | None
) -> None:
    path = scalar.save(record.parent, weights)
    found = {**about, "path": path.name, "weights": plain(done.weights), "history": done.history}
    _checkpoint.write_json(record, {**found, "tokens": done.tokens, "seconds": round(done.seconds, 2)})
    _checkpoint.drop(record.parent)


def pack_ends(items: Sequence[Item]) -> Row:
    """A row in which the last token of each answer is computed, too: a policy never reads what follows it."""
    return pack([Item(prompt=i.prompt, answers=tuple((*a, 0) for a in i.answers)) for i in items])
