"""Process reward models: learn from labelled steps which step of an answer is right so far, and score answers by it.

A scalar head reads the last token of every step; all steps of an answer come from one pass over it. `train_steps` trains,
`load_steps` gives the model back: a reward for `align.rl` and for `align.best_of`, since an answer's score is the product
(or the least) of its steps' probabilities of being right. Source: Lightman et al. 2023 (arXiv:2305.20050), section 2.4.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fivefold.align import _checkpoint, _ranges
from fivefold.align._adapter import Lora
from fivefold.align._loop import OnStep, Part, TrainConfig, check_settings, descend, over_rows, seeded
from fivefold.align._pack import Item, rows_of
from fivefold.align._processes import ALONE, Processes, processes
from fivefold.align._scalar import Scalar, pack_ends, settle
from fivefold.align.data.steps import Steps, step_ends
from fivefold.align.losses._base import config_of, load
from fivefold.align.losses.process_reward import answer_score
from fivefold.align.rewards import Sample
from fivefold.align.sinks import MetricSink
from fivefold.align.train import batches_of, run_key
from fivefold.errors import DataError, UsageError
from fivefold.runtime.compute import on_compute_thread
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.stats import measure_rate
from fivefold.types import Measurement, Scored, digest, plain

RECORD = "process.json"


def _training() -> TrainConfig:
    return TrainConfig(loss="process_reward", adapter=Lora(r=8, alpha=16), lr=1e-3, batch_items=16)


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """How a process reward model is trained and used."""

    train: TrainConfig = field(default_factory=_training)
    """The trainer's settings; `loss` is of kind `steps`."""
    score: Literal["product", "least"] = "product"
    """An answer's score from its steps' probabilities of being right."""

    def __post_init__(self) -> None:
        _ranges.words(self, "score")


@dataclass(frozen=True, kw_only=True)
class ProcessResult:
    """A trained process reward model. `accuracy` is over held-out labelled steps (None without any)."""

    path: Path
    record: Path
    accuracy: Measurement | None
    losses: tuple[float, ...]
    seconds: float


@on_compute_thread
def train_steps(
    model: WhiteBox,
    answers: Sequence[Steps],
    config: ProcessConfig,
    out: Path,
    *,
    held_out: Sequence[Steps] = (),
    start: Path | None = None,
    sinks: Sequence[MetricSink] = (),
    on_step: OnStep | None = None,
) -> ProcessResult:
    """Train on the labelled steps of `answers` and measure on those of `held_out`, which serve early stop, too.

    `start` is an adapter to begin from. Killed and called again, it goes on; several processes share the rows, as in
    `train`. Raises as `train` does.
    """
    require(model, Capability.GRADIENTS, for_="training a process reward model")
    settings, module = config.train, load(config.train.loss)
    _check(settings, module, bool(held_out))
    check_steps(answers)
    options = config_of(module, settings.loss_options)
    watched = held_out if settings.check_steps else ()
    together = processes(next(model.module.parameters()).device, shards=True)
    key = run_key(model, digest([list(answers), list(watched)]), settings, start, together)
    if _checkpoint.read_json(out / RECORD) is None:
        trainer = _Trainer(model, list(answers), list(watched), config, module, options, start, together)
        trainer.run(out, key, sinks, on_step)
    record = _checkpoint.read_json(out / RECORD)
    _checkpoint.check_key(out, record["key"], key)
    return ProcessResult(
        path=out / record["path"],
        record=out / RECORD,
        accuracy=load_steps(model, out).accuracy(held_out) if held_out else None,
        losses=tuple(h["loss"] for h in record["history"]),
        seconds=record["seconds"],
    )


@dataclass(eq=False)
class _Trainer:
    model: WhiteBox
    answers: list[Steps]
    watched: list[Steps]
    config: ProcessConfig
    module: ModuleType
    options: Any
    start: Path | None
    together: Processes = ALONE

    def run(self, out: Path, key: str, sinks: Sequence[MetricSink], on_step: OnStep | None) -> None:
        """Train from the checkpoint in `out`, or from the start, to the record."""
        settings, began = self.config.train, time.monotonic()
        batches = batches_of([a.item for a in self.answers], settings)
        with seeded(settings.seed):
            assert settings.adapter is not None
            again = settings.gradient_checkpointing
            scalar = Scalar.fresh(
                self.model.module, settings.adapter, 1, self.start, checkpointing=again, together=self.together
            )
            scalar.trained.train()

            def backward(step: int) -> tuple[float, dict[str, float], int]:
                return self._batch(scalar, [self.answers[i] for i in batches[step]], step)

            done = descend(
                len(batches),
                scalar.parameters(),
                backward,
                settings,
                out,
                key,
                spent=time.monotonic() - began,
                on_step=on_step,
                together=self.together,
                measure=(lambda: self._held_out(scalar)) if self.watched else None,
                sinks=sinks,
            )

            about = {"key": key, "model": self.model.fingerprint, "config": plain(self.config)}
            about["answers"] = len(self.answers)
            settle(scalar, out / RECORD, done, about, self.together)

    def _batch(self, scalar: Scalar, batch: Sequence[Steps], step: int) -> tuple[float, dict[str, float], int]:
        """One batch's gradient, row by row; a row counts by its share of the labelled steps."""
        rows = list(rows_of([a.item for a in batch], self.config.train.row_tokens))
        n = sum(_n_labels(a) for a in batch)

        def one_row(r: int) -> Part:
            of_row = [batch[i] for i in rows[r]]
            outputs, there = outputs_of(scalar, of_row)
            right, labelled = _labels(of_row, there)
            found = self.module.loss(outputs, right, labelled, self.options)
            share = sum(_n_labels(a) for a in of_row) / n
            metrics = {k: v * share for k, v in found.metrics.items()}
            return Part(found.loss * share, metrics, sum(a.item.n_tokens for a in of_row))

        costs = [sum(batch[i].item.n_tokens for i in row) for row in rows]
        return over_rows(costs, one_row, self.together, f"{self.config.train.seed}/{step}")

    @torch.no_grad()
    def _held_out(self, scalar: Scalar) -> float:
        scalar.trained.eval()
        loss, _, _ = self._batch(scalar, self.watched, 0)
        scalar.trained.train()
        return loss


def outputs_of(scalar: Scalar, answers: Sequence[Steps]) -> tuple[Tensor, Tensor]:
    """The head's outputs [N, S] at the ends of all steps of a row of answers, and where there is a step [N, S]."""
    row = pack_ends([a.item for a in answers])
    places = [of_item[0].start + end for a, of_item in zip(answers, row.answers, strict=True) for end in a.ends]
    flat = scalar.at(row, places)[:, 0]
    parts = torch.split(flat, [len(a.ends) for a in answers])
    there = [torch.ones(len(p), dtype=torch.bool, device=flat.device) for p in parts]
    return pad_sequence(list(parts), True), pad_sequence(there, True)


def _labels(answers: Sequence[Steps], there: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each step is right, and whether that is known, [N, S]."""
    right, labelled = torch.zeros_like(there), torch.zeros_like(there)
    for n, answer in enumerate(answers):
        for s, label in enumerate(answer.labels):
            right[n, s], labelled[n, s] = bool(label), label is not None
    return right, labelled


def _n_labels(answer: Steps) -> int:
    return sum(label is not None for label in answer.labels)


def _check(settings: TrainConfig, module: ModuleType, held_out: bool) -> None:
    if module.KIND != "steps":
        raise UsageError(
            f"the {settings.loss} loss does not learn from steps", expected="process_reward", got=module.KIND
        )
    if settings.adapter is None:
        raise UsageError("a reward model is an adapter and a head", expected="an adapter", got="adapter=None")
    check_settings(settings, held_out and settings.check_steps is not None)


def check_steps(answers: Sequence[Steps]) -> None:
    """Raise DataError unless every answer has steps inside it, with at least one label."""
    if not answers:
        raise DataError("no labelled steps to train on", expected="at least one answer", got="none")
    for i, a in enumerate(answers):
        inside = all(0 < end <= len(a.item.answers[0]) for end in a.ends) and list(a.ends) == sorted(set(a.ends))
        if len(a.item.answers) != 1 or not inside or len(a.ends) != len(a.labels) or not _n_labels(a):
            raise DataError(
                f"answer {i} has no labelled steps",
                expected="one answer, rising step ends inside it, a label for each, at least one not None",
                got=f"ends {a.ends}, labels {a.labels}",
            )


@dataclass(eq=False)
class ProcessModel:
    """A reward function that looks at every step: called with samples, it gives their scores."""

    model: WhiteBox
    scalar: Scalar
    score: str
    row_tokens: int

    def __call__(self, samples: Sequence[Sample]) -> list[float | None]:
        """Scores in [0, 1]: the product, or the least, of the steps' probabilities of being right."""
        given = [self._steps(s) for s in samples]
        return [float(self._score(p)) for p in self.probabilities(given)]

    def steps(self, samples: Sequence[Sample]) -> list[list[float]]:
        """For each sample, the probability of each of its steps being right."""
        return [p.tolist() for p in self.probabilities([self._steps(s) for s in samples])]

    @torch.no_grad()
    def probabilities(self, answers: Sequence[Steps]) -> list[Tensor]:
        """Probability of being right of every step, [S] for each answer."""
        self.scalar.trained.eval()
        found: dict[int, Tensor] = {}
        for indices in rows_of([a.item for a in answers], self.row_tokens):
            outputs, there = outputs_of(self.scalar, [answers[i] for i in indices])
            for i, out, of_one in zip(indices, outputs.cpu(), there.cpu(), strict=True):
                found[i] = out[of_one].sigmoid()
        return [found[i] for i in range(len(answers))]

    def _steps(self, sample: Sample) -> Steps:
        item = Item(prompt=tuple(self.model.encode(sample.case.messages)), answers=(sample.tokens,))
        ends = step_ends(self.model.tokenizer, sample.tokens)
        return Steps(item=item, ends=ends, labels=(None,) * len(ends))

    def _score(self, probabilities: Tensor) -> Tensor:
        there = torch.ones_like(probabilities, dtype=torch.bool)
        return answer_score(probabilities.logit()[None], there[None], self.score)[0]

    def accuracy(self, answers: Sequence[Steps]) -> Measurement:
        """How often a labelled step is called as its label says, with its interval; steps of an answer are a cluster."""
        judge = digest([self.model.fingerprint, "process_reward"])
        outcomes, clusters = [], []
        for i, (answer, found) in enumerate(zip(answers, self.probabilities(answers), strict=True)):
            for label, p in zip(answer.labels, found.tolist(), strict=True):
                if label is not None:
                    hit = (p > 0.5) is label
                    outcomes.append(Scored(value=float(hit), label="right" if hit else "wrong", judge=judge))
                    clusters.append(str(i))
        return measure_rate(
            outcomes,
            metric="step_accuracy",
            subject=judge,
            subject_name=f"{self.model.name}+process_reward",
            safer="higher",
            clusters=clusters,
            dataset=digest(list(answers)),
            judge=judge,
        )


def load_steps(model: WhiteBox, folder: Path) -> ProcessModel:
    """The process reward model in `folder`; raises TrainingError if it is not there or was made on another model."""
    record = _checkpoint.made_on(folder / RECORD, "process reward model", model.fingerprint)
    scalar = Scalar.fresh(model.module, Lora(), 1, folder / record["path"])
    scalar.trained.requires_grad_(False)
    config = record["config"]
    return ProcessModel(model=model, scalar=scalar, score=config["score"], row_tokens=config["train"]["row_tokens"])
