"""Reward models: learn from pairs which answer people prefer, and say how often that is right on pairs not trained on.

The head reads the last token of an answer; prompt tokens are computed once for both answers. `train_reward` trains with
any loss of kind `scores` (`reward`, `reward_uncertainty`, `cost`); `load_reward` gives what it made back as a reward
function. Source: Ouyang et al. 2022 (InstructGPT, arXiv:2203.02155), section 3.5.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fivefold.align import _checkpoint, _ranges
from fivefold.align._adapter import Lora
from fivefold.align._loop import OnStep, Part, TrainConfig, check_settings, descend, over_rows, seeded
from fivefold.align._pack import Item, rows_of
from fivefold.align._processes import ALONE, Processes, processes
from fivefold.align._scalar import Scalar, pack_ends, settle
from fivefold.align.data.tokens import encode_reply
from fivefold.align.losses._base import Scores, config_of, load
from fivefold.align.losses.reward import pessimistic
from fivefold.align.losses.reward_uncertainty import gaussian
from fivefold.align.rewards import Sample
from fivefold.align.train import batches_of, check_items, run_key
from fivefold.errors import UsageError
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.stats import measure_rate
from fivefold.types import Measurement, Scored, digest, plain

RECORD = "reward.json"


def _training() -> TrainConfig:
    return TrainConfig(loss="reward", adapter=Lora(r=8, alpha=16), lr=1e-3, batch_items=16)


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """How a reward model is trained and used."""

    train: TrainConfig = field(default_factory=_training)
    """The trainer's settings; `loss` is one of kind `scores`."""
    heads: int = 1
    """Members of the ensemble. They share the trunk, so they disagree less than separate models would."""
    pessimism: float = 0.0
    """How much of the members' variance (or of the predicted standard deviation) is taken off the reward."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "heads")
        _ranges.numbers(self, "pessimism", below=True)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Training pairs, each item with its better answer first (for a cost model: the more harmful one).

    `margins`: by how much the first is better. `unsafe`: whether each of the two is harmful in itself.
    """

    items: Sequence[Item]
    margins: Sequence[float] | None = None
    unsafe: Sequence[tuple[bool, bool]] | None = None

    def scores(self, values: Tensor, indices: Sequence[int]) -> tuple[Scores, Scores]:
        """Both sides of the pairs `indices` from outputs [n, 2, K]."""
        margin = None if self.margins is None else torch.tensor([self.margins[i] for i in indices]).to(values)
        marks: list[Tensor | None] = [None, None]
        if self.unsafe is not None:
            marks = [torch.tensor([self.unsafe[i][k] for i in indices], device=values.device) for k in (0, 1)]
        return Scores(values[:, 0], margin, marks[0]), Scores(values[:, 1], None, marks[1])


@dataclass(frozen=True, kw_only=True)
class RewardResult:
    """A trained reward model. `path` is its adapter's folder; `accuracy` is measured on held-out pairs (None without)."""

    path: Path
    record: Path
    accuracy: Measurement | None
    losses: tuple[float, ...]
    seconds: float


def train_reward(
    model: WhiteBox,
    pairs: Pairs,
    config: RewardConfig,
    out: Path,
    *,
    held_out: Sequence[Item] = (),
    start: Path | None = None,
    on_step: OnStep | None = None,
) -> RewardResult:
    """Train a reward model on `pairs` and measure it on `held_out`. Killed and called again, it goes on.

    `start` is an adapter to begin from (the SFT model's, as InstructGPT does). Rewards are shifted and scaled so that
    the answers trained on have mean 0 and standard deviation 1. Raises as `train` does.
    """
    require(model, Capability.GRADIENTS, for_="training a reward model")
    settings, module = config.train, load(config.train.loss)
    check_scores(settings, module)
    check_settings(settings, held_out=False)
    check_items(pairs.items, load("dpo"))
    options = config_of(module, settings.loss_options)
    together = processes(next(model.module.parameters()).device, shards=True)
    key = run_key(model, digest([pairs, config.heads]), settings, start, together)
    if _checkpoint.read_json(out / RECORD) is None:
        _train(model, pairs, config, out, key, start, on_step, module, options, together)
    record = _checkpoint.read_json(out / RECORD)
    _checkpoint.check_key(out, record["key"], key)
    made = load_reward(model, out)
    measured = made.accuracy(held_out, settings.loss) if held_out else None
    return RewardResult(
        path=out / record["path"],
        record=out / RECORD,
        accuracy=measured,
        losses=tuple(h["loss"] for h in record["history"]),
        seconds=record["seconds"],
    )


def _train(
    model: WhiteBox,
    pairs: Pairs,
    config: RewardConfig,
    out: Path,
    key: str,
    start: Path | None,
    on_step: OnStep | None,
    module: ModuleType,
    options: Any,
    together: Processes,
) -> None:
    settings, items, began = config.train, pairs.items, time.monotonic()
    batches = batches_of(items, settings)
    with seeded(settings.seed):
        assert settings.adapter is not None
        heads, again = getattr(module, "HEADS", config.heads), settings.gradient_checkpointing
        scalar = Scalar.fresh(model.module, settings.adapter, heads, start, checkpointing=again, together=together)
        scalar.trained.train()

        def backward(step: int) -> tuple[float, dict[str, float], int]:
            return _backward(scalar, pairs, batches[step], settings, module, options, together, step)

        done = descend(
            len(batches),
            scalar.parameters(),
            backward,
            settings,
            out,
            key,
            spent=time.monotonic() - began,
            on_step=on_step,
            together=together,
        )
        scalar.trained.eval()

        about: dict[str, Any] = {"key": key, "model": model.fingerprint, "config": plain(config), "pairs": len(items)}
        if together.first or together.parts > 1:
            raw = _reduce(scalar.score(items, settings.row_tokens), settings.loss, config.pessimism)
            about |= {"mean": raw.mean().item(), "scale": max(raw.std().item(), 1e-6)}
        settle(scalar, out / RECORD, done, about, together)


def _backward(
    scalar: Scalar,
    pairs: Pairs,
    batch: Sequence[int],
    settings: TrainConfig,
    module: ModuleType,
    options: Any,
    together: Processes = ALONE,
    step: int = 0,
) -> tuple[float, dict[str, float], int]:
    """One batch's gradient, row by row."""
    chosen = [pairs.items[i] for i in batch]
    rows = list(rows_of(chosen, settings.row_tokens))

    def one_row(r: int) -> Part:
        indices = [batch[p] for p in rows[r]]
        row = pack_ends([pairs.items[i] for i in indices])
        values = scalar.at_ends(row).reshape(len(indices), 2, -1)
        output = module.loss(*pairs.scores(values, indices), options)
        share = len(indices) / len(batch)
        return Part(output.loss * share, {k: v * share for k, v in output.metrics.items()}, len(row.tokens))

    costs = [sum(chosen[p].n_tokens for p in row) for row in rows]
    return over_rows(costs, one_row, together, f"{settings.seed}/{step}")


def check_scores(settings: TrainConfig, module: ModuleType) -> None:
    """Raise UsageError for settings that a reward model cannot be trained with."""
    if module.KIND != "scores":
        raise UsageError(
            f"the {settings.loss} loss does not train a reward model",
            expected="reward, reward_uncertainty or cost",
            got=f"a loss of {module.KIND}",
        )
    if settings.adapter is None:
        raise UsageError("a reward model is an adapter and a head", expected="an adapter", got="adapter=None")


def _reduce(values: Tensor, loss: str, pessimism: float) -> Tensor:
    """One number an answer [...] from the head's outputs [..., K]."""
    if loss == "reward_uncertainty":
        mu, sigma = gaussian(values)
        return mu - pessimism * sigma
    return pessimistic(values, pessimism)


@dataclass(eq=False)
class RewardModel:
    """A reward function with a model inside: called with samples, it gives their rewards."""

    model: WhiteBox
    scalar: Scalar
    loss: str
    pessimism: float
    mean: float
    scale: float
    row_tokens: int

    def __call__(self, samples: Sequence[Sample]) -> list[float | None]:
        """Rewards in units of the standard deviation over the answers trained on, 0 for their mean."""
        items = [Item(prompt=tuple(self.model.encode(s.case.messages)), answers=(s.tokens,)) for s in samples]
        return [float(v) for v in self.rewards(items)[:, 0]] if items else []

    def rewards(self, items: Sequence[Item]) -> Tensor:
        """Rewards [items, answers]."""
        values = self.scalar.score(items, self.row_tokens)
        return (_reduce(values, self.loss, self.pessimism) - self.mean) / self.scale

    def of_texts(self, prompts: Sequence[tuple[Any, ...]], answers: Sequence[str], limit: int) -> Tensor:
        """Rewards [n] of written answers (cut to `limit` tokens) to conversations."""
        items = [
            Item(prompt=tuple(self.model.encode(p)), answers=(encode_reply(self.model, a, limit),))
            for p, a in zip(prompts, answers, strict=True)
        ]
        return self.rewards(items)[:, 0]

    def accuracy(self, pairs: Sequence[Item], name: str = "reward") -> Measurement:
        """How often the first answer of held-out pairs gets the higher reward, with its interval. A tie is a miss."""
        rewards = self.rewards(pairs)
        judge = digest([self.model.fingerprint, name, self.mean, self.scale])
        outcomes = [
            Scored(value=float(a > b), label="right" if a > b else "wrong", judge=judge) for a, b in rewards.tolist()
        ]
        return measure_rate(
            outcomes,
            metric="reward_accuracy",
            subject=judge,
            subject_name=f"{self.model.name}+{name}",
            safer="higher",
            dataset=digest(list(pairs)),
            judge=judge,
        )


def load_reward(model: WhiteBox, folder: Path) -> RewardModel:
    """The reward model in `folder`; raises TrainingError if it is not there or was made on another model."""
    record = _checkpoint.made_on(folder / RECORD, "reward model", model.fingerprint)
    module = load(record["config"]["train"]["loss"])
    outputs = getattr(module, "HEADS", record["config"]["heads"])
    scalar = Scalar.fresh(model.module, Lora(), outputs, folder / record["path"])
    scalar.trained.requires_grad_(False)
    return RewardModel(
        model=model,
        scalar=scalar,
        loss=record["config"]["train"]["loss"],
        pessimism=record["config"]["pessimism"],
        mean=record["mean"],
        scale=record["scale"],
        row_tokens=record["config"]["train"]["row_tokens"],
    )
