"""One training loop for every loss: packed rows, shared prompts, exact resume, one process or many.

Read `train` first, then `_loop.descend`, the loop itself. What makes it fast is in two other files: `_pack` (a prompt is
computed once for all its answers, a system prompt once for a whole row, and nothing is padded) and `_policy` (vocabulary
logits only where an answer is read). What makes it safe to kill is in `_checkpoint`, what spreads it over processes in
`_processes`, what splits its weights over them in `_sharded` and its optimiser in `_deepspeed`, what it leaves (last,
averaged or best weights) in `_leaving`.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fivefold.align import _checkpoint
from fivefold.align._adapter import (
    adapter_off,
    adapter_parameters,
    causal_lm,
    save_trained,
    trainable,
    trainable_copy,
)
from fivefold.align._loop import (
    Apart,
    Done,
    OnStep,
    Part,
    Progress,
    TrainConfig,
    check_settings,
    descend,
    learning_rate,
    over_rows,
    seeded,
)
from fivefold.align._lower import Lower
from fivefold.align._pack import Item, Row, even_rows, pack, rows_of
from fivefold.align._policy import (
    answer_logps,
    answer_states,
    check_packing,
    divergence,
    entered,
    is_split,
    read_head,
)
from fivefold.align._processes import ALONE, Processes, processes
from fivefold.align.losses._base import FIXED_DATA, Answers, LossOutput, config_of, load
from fivefold.align.sinks import MetricSink
from fivefold.errors import DataError, UsageError
from fivefold.registry import registry
from fivefold.runtime._lean import find, lean
from fivefold.runtime._structure import decoder_layers
from fivefold.runtime.compute import on_compute_thread
from fivefold.runtime.crew import side_by_side, workers_of
from fivefold.runtime.memory import free_bytes
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.types import digest, plain

__all__ = [
    "Estimate",
    "OnStep",
    "Progress",
    "TrainConfig",
    "TrainResult",
    "estimate",
    "learning_rate",
    "score",
    "train",
]

RECORD = "training.json"
WITHOUT_EFFECT = frozenset({"checkpoint_seconds", "checkpoint_steps", "gradient_checkpointing", "log_to"})
"""Settings that change neither losses nor weights."""
MOST_LR = 1e-4
"""Learning rates above this, which adapters need, soon break a model when all of its weights are trained."""
LOG = logging.getLogger("fivefold.align")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take, before it starts. Bytes are rough (within a factor of two), tokens and steps exact but for
    what rows share. Bytes are of each process; steps and tokens of all together."""

    steps: int
    tokens: int
    weights: int
    state: int
    activations: int

    @property
    def bytes(self) -> int:
        """Peak memory: weights, adapter with gradient and optimiser, one row's activations."""
        return self.weights + self.state + self.activations

    def __str__(self) -> str:
        parts = ", ".join(f"{k} {_size(getattr(self, k))}" for k in ("weights", "state", "activations"))
        return f"{self.steps} steps over {self.tokens:,} tokens, about {_size(self.bytes)} of memory ({parts})"


def _size(n: int) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run: `path` holds the adapter (or the whole model), `record` what was done."""

    path: Path
    record: Path
    key: str
    data_digest: str
    losses: tuple[float, ...]
    tokens: int
    seconds: float


@on_compute_thread
def train(
    model: WhiteBox,
    items: Sequence[Item],
    config: TrainConfig,
    out: Path,
    *,
    start: Path | None = None,
    held_out: Sequence[Item] = (),
    sinks: Sequence[MetricSink] = (),
    on_step: OnStep | None = None,
) -> TrainResult:
    """Train `model` on `items` and leave an adapter (or weights) with its record in `out`.

    `start` is an adapter folder to go on from. With `held_out` items the loss on them is measured every
    `config.check_steps` steps, and the weights with the lowest are left. `sinks` get each step's numbers, like those of
    `config.log_to`. A killed run, called again with the same arguments, continues from its last checkpoint and gives the
    losses that an uninterrupted run gives; a finished one returns its result at once. The model itself is left as it was.

    Started by `accelerate launch` or `torchrun`, every process calls this with the same arguments and an `out` that all
    see; they share each step's rows, and losses and weights are those of one process but for the order of sums.

    Raises TrainingError when the loss is no longer finite, when `out` belongs to another run, or when the model
    cannot be trained in packed rows; DataError when the items do not fit the loss; UsageError for settings that do not
    fit each other.
    """
    require(model, Capability.GRADIENTS, for_=f"training with the {config.loss} loss")
    loss_module = load(config.loss)
    loss_config = config_of(loss_module, config.loss_options)
    check_loss(loss_module, config)
    check_start(start, config)
    check_settings(config, bool(held_out))
    check_items(items, loss_module)
    data_digest, everything = digest(items), [*items, *held_out]
    together = processes(next(model.module.parameters()).device, shards=True)
    key = run_key(model, data_digest, config, start, together)
    if held_out:
        check_items(held_out, loss_module)
        key = digest([key, held_out])
    if (before := finished(out, key)) is not None:
        return before

    expected = estimate(model.module, everything, config, together)
    announce(config, expected, model.module, together)
    batches = batches_of(items, config)
    began = time.monotonic()
    with seeded(config.seed):
        again, split = config.gradient_checkpointing, together.parts > 1
        trained = trainable_copy(model.module, config.adapter, start, checkpointing=again, split=together.copies)
        together.split(trained)
        module, params = causal_lm(trained), trainable(trained)
        lower = None if split else lower_of(module, config)
        with adapter_off(trained):
            check_packing(module, items[:2], model.module, lower, together.computed_in)
        if lower is not None:
            lower.keep(everything)  # all at once, so that a resumed run keeps the very same values
        reference = None
        if loss_module.REFERENCE:
            reference = reference_logps(trained, everything, config, out, key, lower, together)
        trained.train()

        def gradient(step: int) -> tuple[float, dict[str, float], int]:
            chosen = [items[i] for i in batches[step]]
            known = None if reference is None else [reference[i] for i in batches[step]]
            return backward(
                trained, chosen, known, config, loss_module, loss_config, lower, together=together, step=step
            )

        def measure() -> float:
            known = None if reference is None else reference[len(items) :]
            return held_out_loss(trained, held_out, known, config, loss_module, loss_config, lower, together)

        done = descend(
            len(batches),
            params,
            gradient,
            config,
            out,
            key,
            spent=time.monotonic() - began,
            on_step=on_step,
            together=together,
            measure=measure if held_out else None,
            sinks=sinks,
        )
        weights = together.whole(params) if together.copies else None
        path = together.told(lambda: save_trained(trained, out, weights, model.tokenizer))
    return finish(out, path, key, data_digest, model, config, items, done, expected, together)


def backward(
    trained: Any,
    batch: Sequence[Item],
    reference: Sequence[Sequence[Tensor]] | None,
    config: TrainConfig,
    loss_module: ModuleType,
    loss_config: Any,
    lower: Lower | None,
    *,
    together: Processes = ALONE,
    step: int = 0,
) -> tuple[float, dict[str, float], int]:
    """Add one batch's gradient, row by row; returns its loss, metrics and the tokens that were computed.

    A row's loss counts by its share of the batch: of its answer tokens or its items, as the loss's REDUCTION says. A
    loss over the whole batch has one row, which one process computes.
    """
    apart = None if loss_module.REDUCTION == "batch" else apart_of(trained, config, loss_module, together)
    limit = config.row_tokens if loss_module.REDUCTION != "batch" else 10**9
    n = 1 if apart is None else apart.workers
    # those that are computed together hold no more tokens than one row would
    rows = even_rows(batch, -(-limit // n), n)
    weights = [i.n_learnt if loss_module.REDUCTION == "token" else 1 for i in batch]

    def one_row(r: int) -> Part:
        of_row = [batch[i] for i in rows[r]]
        known = None if reference is None else [reference[i] for i in rows[r]]
        output, tokens = row_loss(trained, of_row, known, loss_module, loss_config, lower)
        share = sum(weights[i] for i in rows[r]) / sum(weights)
        return Part(output.loss * share, {k: v * share for k, v in output.metrics.items()}, tokens)

    costs = [sum(batch[i].n_tokens for i in row) for row in rows]
    return over_rows(costs, one_row, together, f"{config.seed}/{step}", apart)


def apart_of(trained: Any, config: TrainConfig, loss_module: ModuleType, together: Processes) -> Apart | None:
    """How rows are computed side by side on a CPU: where each row's own gradient is small (an adapter's), nothing is drawn
    at random (dropout), and nothing switches the adapter off meanwhile."""
    lora = config.adapter
    workers = workers_of(next(trained.parameters()).device)
    if workers == 1 or together.size > 1 or lora is None or config.gradient_checkpointing or needs_kl(loss_module):
        return None
    draws = lora.dropout or getattr(causal_lm(trained).config.get_text_config(), "attention_dropout", 0)
    if draws or any(isinstance(m, torch.nn.Dropout) and m.p for m in trained.modules()):
        return None
    return Apart(workers, list(trainable(trained).values()))


def row_loss(
    trained: Any,
    items: Sequence[Item],
    reference: Sequence[Sequence[Tensor]] | None,
    loss_module: ModuleType,
    loss_config: Any,
    lower: Lower | None,
) -> tuple[LossOutput, int]:
    """The loss of `items` packed into one row, and the row's tokens."""
    module, row = causal_lm(trained), pack(items)
    stream = lower(items, row) if lower else None

    def read() -> tuple[Tensor, Tensor | None]:
        states = answer_states(module, row, stream)
        kl = token_kl(trained, states, row, stream) if needs_kl(loss_module) else None
        return read_head(module, states, row.want.to(states.device)), kl

    logps, kl = entered(module, read)
    return loss_of(logps, row, items, reference, loss_module, loss_config, kl), len(row.tokens)


@torch.no_grad()
def held_out_loss(
    trained: Any,
    items: Sequence[Item],
    reference: Sequence[Sequence[Tensor]] | None,
    config: TrainConfig,
    loss_module: ModuleType,
    loss_config: Any,
    lower: Lower | None,
    together: Processes,
) -> float:
    """The mean loss of `items` without dropout and without a gradient."""
    trained.eval()
    loss, _, _ = backward(trained, items, reference, config, loss_module, loss_config, lower, together=together)
    trained.train()
    return loss


def loss_of(
    logps: Tensor,
    row: Row,
    items: Sequence[Item],
    reference: Sequence[Sequence[Tensor]] | None,
    loss_module: ModuleType,
    loss_config: Any,
    kl: Tensor | None = None,
) -> LossOutput:
    """The loss of one row from its flat log-probabilities [R] (and divergences [R])."""
    label = torch.tensor([i.label for i in items], device=logps.device)

    def answers(which: int) -> Answers:
        parts = [logps[of_item[which]] for of_item in row.answers]
        known = None if reference is None else pad_sequence([r[which].to(logps.device) for r in reference], True)
        mask = pad_sequence([torch.ones(len(p), dtype=torch.bool, device=logps.device) for p in parts], True)
        kls = None if kl is None else pad_sequence([kl[of_item[which]] for of_item in row.answers], True)
        return Answers(pad_sequence(parts, True), mask, known, label, kls)

    n = n_answers(loss_module)
    output: LossOutput = loss_module.loss(*(answers(i) for i in range(n)), loss_config)
    return output


def needs_kl(loss_module: ModuleType) -> bool:
    """Whether a loss reads the whole distribution of the reference at every answer token."""
    return bool(getattr(loss_module, "TOKEN_KL", False))


def token_kl(trained: Any, states: Tensor, row: Row, stream: Tensor | None) -> Tensor:
    """KL(pi_ref || pi) at every answer token of a row, [R], with the base model as the reference."""
    with torch.no_grad(), adapter_off(trained):
        reference = answer_states(causal_lm(trained), row, stream)
    return divergence(causal_lm(trained), states, reference)


@torch.no_grad()
def score(
    module: Any, items: Sequence[Item], row_tokens: int, lower: Lower | None = None, temperature: float = 1.0
) -> list[list[Tensor]]:
    """Log-probabilities of every item's answers: for each item, for each answer, a tensor of its tokens."""
    found: dict[int, list[Tensor]] = {}

    def read(indices: Sequence[int]) -> None:
        of_row = [items[i] for i in indices]
        row = pack(of_row)
        logps = answer_logps(module, row, lower(of_row, row) if lower else None, temperature).cpu()
        for i, of_item in zip(indices, row.answers, strict=True):
            found[i] = [logps[part].clone() for part in of_item]

    if lower is not None:
        lower.keep(items)
    workers = 1 if is_split(module) else workers_of(next(module.parameters()).device)
    with lean([] if is_split(module) else find(module)):
        side_by_side([partial(read, row) for row in even_rows(items, row_tokens, workers)], workers)
    return [found[i] for i in range(len(items))]


def reference_logps(
    trained: Any,
    items: Sequence[Item],
    config: TrainConfig,
    out: Path,
    key: str,
    lower: Lower | None,
    together: Processes = ALONE,
) -> list[list[Tensor]]:
    """Log-probabilities under the reference, computed once (each process a share) and kept beside the checkpoint."""
    path = out / "reference.pt"
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept["key"] == key:
            return list(kept["logps"])
    rows = list(rows_of(items, config.row_tokens))
    costs = [sum(items[i].n_tokens for i in row) for row in rows]
    found: dict[int, list[Tensor]] = {}
    with adapter_off(trained) if config.reference == "base" else nullcontext():
        taken = [rows[r] for r in (*together.mine(costs), *together.idle(costs))]
        if together.parts == 1:
            taken = [[i for row in taken for i in row]]
        for row in taken:  # those who gather weights together have to pass as many rows
            scored = score(causal_lm(trained), [items[i] for i in row], config.row_tokens, lower)
            found |= dict(zip(row, scored, strict=True))
    logps = together.gathered(found)
    together.told(
        lambda: _checkpoint.write_atomic(path, lambda handle: torch.save({"key": key, "logps": logps}, handle))
    )
    return logps


def lower_of(module: Any, config: TrainConfig) -> Lower | None:
    """The reuse of the layers below the first adapter, where there are any and the data is passed more than once."""
    first = config.adapter.from_layer if config.adapter else 0
    return Lower(module, first, config.row_tokens) if first and config.reuse_frozen else None


def batches_of(items: Sequence[Item], config: TrainConfig) -> list[list[int]]:
    """Indices of the items of every step of the whole run, each epoch in an order of its own. Twins stay together."""
    units: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        units.setdefault(item.twin or f"/{i}", []).append(i)
    batches = []
    for epoch in range(config.epochs):
        shuffled = list(units.values())
        random.Random(f"{config.seed}/{epoch}").shuffle(shuffled)
        order = [i for unit in shuffled for i in unit]
        batches += [order[i : i + config.batch_items] for i in range(0, len(items), config.batch_items)]
    return batches


def n_answers(loss_module: ModuleType) -> int:
    """How many answers an item of this loss has: one, chosen and rejected, or its own and a mismatched one."""
    return 1 if loss_module.KIND == "single" else 2


def check_loss(loss_module: ModuleType, config: TrainConfig) -> None:
    """Raise UsageError for a loss that does not learn from fixed answers, or whose reference cannot be had."""
    if loss_module.KIND not in FIXED_DATA:
        fitting = [n for n in registry("loss").names() if load(n).KIND in FIXED_DATA]
        raise UsageError(
            f"the {config.loss} loss does not learn from given answers",
            expected=", ".join(fitting),
            got=f"a loss of {loss_module.KIND}",
            next_step="train reward models with align.reward, policies on samples with align.rl",
        )
    if needs_kl(loss_module) and (config.adapter is None or config.reference != "base"):
        raise UsageError(
            f"the {config.loss} loss compares whole distributions with the base model's",
            expected="an adapter, and reference='base'",
            got=f"adapter={config.adapter}, reference={config.reference!r}",
            next_step="of the losses with a reference, dpo, ipo, rpo and kto are trained with all weights",
        )


def check_start(start: Path | None, config: TrainConfig) -> None:
    """Raise UsageError where all weights would begin from an adapter, which has no others."""
    if start is not None and config.adapter is None:
        raise UsageError(
            f"all weights cannot be trained from the adapter in {start}",
            expected="an adapter to train on, or no start",
            got="adapter=None",
            next_step="train an adapter here, too, or all weights in the stage before",
        )


def check_items(items: Sequence[Item], loss_module: ModuleType) -> None:
    """Raise DataError unless every item has the answers that the loss compares."""
    name, n = loss_module.__name__.rsplit(".", 1)[-1], n_answers(loss_module)
    if not items:
        raise DataError(f"nothing to train on with the {name} loss", expected="at least one item", got="none")
    for i, item in enumerate(items):
        if len(item.answers) != n or not item.prompt or not all(item.answers):
            raise DataError(
                f"item {i} does not fit the {name} loss",
                expected=f"a prompt and {n} answer(s), none empty",
                got=f"{len(item.prompt)} prompt tokens, answers of {[len(a) for a in item.answers]} tokens",
            )


def estimate(module: Any, items: Sequence[Item], config: TrainConfig, together: Processes = ALONE) -> Estimate:
    """Steps, tokens and memory of a training run with `module`.

    State: three float32 numbers a trained parameter (gradient, two moments), one more for an average, one for the best
    weights so far, and one for the value, unless all weights are trained in float32, where the copied model is that.
    Activations of one row: what the backward pass keeps of an adapted layer, about 14 vectors of the model's width and 4
    of its MLP's a token, and the kept output of frozen layers. With gradient checkpointing that is kept of one layer at a
    time, and of the others their input. Where weights are split over processes, it is this process's part of them, beside
    the model as it was loaded.
    """
    text = module.config.get_text_config()
    width, inner = text.hidden_size, getattr(text, "intermediate_size", 4 * text.hidden_size)
    size = module.get_input_embeddings().weight.element_size()
    layers = len(decoder_layers(module)) - (config.adapter.from_layer if config.adapter else 0)
    weights = sum(p.numel() for p in module.parameters())
    trained = adapter_parameters(module, config.adapter) if config.adapter else weights
    one_pass = sum(item.n_tokens for item in items)
    row = max(config.row_tokens, max(item.n_tokens for item in items))
    parts = together.parts
    numbers = 3 + (config.ema is not None) + (config.check_steps is not None)
    # an adapter's values, masters of weights in half precision, or the copies that ZeRO steps
    numbers += config.adapter is not None or size < 4 or bool(together.stage)
    reused = config.adapter is not None and config.adapter.from_layer and config.reuse_frozen and parts == 1
    kept = one_pass * width * size if reused else 0
    inside = 14 * width + 4 * inner
    held = layers * width + inside if config.gradient_checkpointing else layers * inside
    return Estimate(
        steps=math.ceil(len(items) / config.batch_items) * config.epochs,
        tokens=one_pass * config.epochs,
        weights=weights * size * (1 if config.adapter or parts > 1 else 2) // parts,
        state=round(trained * 4 * together.numbers(numbers)),
        activations=row * held * size + kept,
    )


def run_key(
    model: WhiteBox, data_digest: str, config: TrainConfig, start: Path | None, together: Processes = ALONE
) -> str:
    """Digest of everything that fixes the run: model, data, configuration, starting adapter, and the dtype that is
    computed in where it is not the model's. A run may go on with other settings of `WITHOUT_EFFECT`: one that ended for
    want of memory, with gradient checkpointing."""
    settings = {k: v for k, v in asdict(config).items() if k not in WITHOUT_EFFECT}
    begun = None if start is None else _checkpoint.digest_folder(start)
    found = {"model": model.fingerprint, "data": data_digest, "config": settings, "start": begun}
    return digest(found if together.computed_in is None else {**found, "computed_in": str(together.computed_in)})


def announce(config: TrainConfig, expected: Estimate, module: Any, together: Processes) -> None:
    """Log what a run will take before it starts, with a warning where that may not fit, or a learning rate is an adapter's."""
    if not together.first:
        return
    every = f" in each of {together.size} processes" if together.size > 1 else ""
    what = "" if config.adapter else "all weights "
    LOG.info("training %swith the %s loss: %s%s", what, config.loss, expected, every)
    if not config.adapter and config.lr > MOST_LR:
        LOG.warning("lr %g is of the size for adapters; all weights are usually trained at 1e-5 to 1e-4", config.lr)
    loaded = sum(p.numel() * p.element_size() for p in module.parameters()) if together.parts == 1 else 0
    free, needed = free_bytes(together.device or next(module.parameters()).device), expected.bytes - loaded
    if free is not None and needed > free:
        LOG.warning(
            "beside the loaded model this needs about %s, and %s are free: lower row_tokens, or set gradient_checkpointing",
            _size(needed),
            _size(free),
        )


def finish(
    out: Path,
    path: Path | None,
    key: str,
    data_digest: str,
    model: WhiteBox,
    config: TrainConfig,
    items: Sequence[Item],
    done: Done,
    expected: Estimate | None = None,
    together: Processes = ALONE,
) -> TrainResult:
    """Write the training record, drop the checkpoint, and return the result. `path` is known to the first process."""

    def write() -> None:
        assert path is not None
        groups: dict[str, int] = {}
        for item in items:
            groups[item.group] = groups.get(item.group, 0) + 1
        record: dict[str, Any] = {
            "key": key,
            "model": model.fingerprint,
            "model_name": model.name,
            "config": plain(config),
            "data": {"digest": data_digest, "items": len(items), "groups": groups},
            "path": path.name,
            "weights": plain(done.weights),
            "processes": together.size,
            "sharded": together.parts > 1,
            "zero": together.stage,
            "computed_in": None if together.computed_in is None else str(together.computed_in).removeprefix("torch."),
            "estimate": plain(expected),
            "tokens": done.tokens,
            "seconds": round(done.seconds, 2),
            "history": done.history,
        }
        _checkpoint.write_json(out / RECORD, record)
        _checkpoint.drop(out)

    together.told(write)
    made = finished(out, key)
    assert made is not None
    return made


def finished(out: Path, key: str) -> TrainResult | None:
    """The result of this very run if it is already done. Another run's result in `out` raises TrainingError."""
    record = _checkpoint.read_json(out / RECORD)
    if record is None:
        return None
    _checkpoint.check_key(out, record["key"], key)
    return result_of(out, record)


def result_of(out: Path, record: Mapping[str, Any]) -> TrainResult:
    """A TrainResult from a training record."""
    return TrainResult(
        path=out / record["path"],
        record=out / RECORD,
        key=record["key"],
        data_digest=record["data"]["digest"],
        losses=tuple(h["loss"] for h in record["history"]),
        tokens=record["tokens"],
        seconds=record["seconds"],
    )
