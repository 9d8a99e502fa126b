"""Where a run's numbers go while it runs, beside its record: TensorBoard, Weights & Biases, MLflow, a file of lines.

A sink takes one row of numbers a step (or a round). `TrainConfig.log_to` names built-in ones; any object with the two
methods of `MetricSink` can be given to a trainer. A run that goes on after a kill writes the steps after its last checkpoint
again: the file and TensorBoard drop their first version, the services keep both. Nothing here reaches the network, but
`wandb` and `mlflow` do, where their own settings say so (`WANDB_MODE=offline`, `MLFLOW_TRACKING_URI`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from fivefold.errors import MissingExtraError, UnknownNameError

PROJECT = "fivefold"


class MetricSink(Protocol):
    """Takes the numbers of a run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step (from 1)."""

    def close(self) -> None:
        """The run has ended, well or not."""


class Lines:
    """`metrics.jsonl` in the run's folder: one JSON object a step, there to read at once."""

    def __init__(self, folder: Path, name: str, after: int) -> None:
        self.path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        kept = _rows_until(self.path, after)
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("a")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line. A number that is not finite is left out: JSON has none."""
        self._file.write(json.dumps({"step": step, **{k: v for k, v in values.items() if math.isfinite(v)}}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rows_until(path: Path, after: int) -> Iterator[Any]:
    """Rows of an earlier start up to step `after`; a last line that was cut off is dropped."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            return
        if row["step"] <= after:
            yield row


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder: `tensorboard --logdir FOLDER` shows them."""

    def __init__(self, folder: Path, name: str, after: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard") from error
        made: Callable[..., Any] = SummaryWriter
        self._writer = made(str(folder / "tensorboard"), purge_step=after + 1 if after else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar for each number."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still waiting."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases in the project `fivefold`; started again, it goes on in the same run."""

    def __init__(self, folder: Path, name: str, after: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb") from error
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(project=PROJECT, id=name, name=folder.name, dir=str(folder), resume="allow")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MLflow:
    """A run in MLflow's experiment `fivefold`, where `MLFLOW_TRACKING_URI` says."""

    def __init__(self, folder: Path, name: str, after: int) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingExtraError("mlflow", "mlflow") from error
        self._client = MlflowClient()
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        tags = {"mlflow.runName": folder.name, "fivefold.run": name}
        self._run = self._client.create_run(experiment, tags=tags).info.run_id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One metric for each number; `/` is the only punctuation that MLflow takes in names, and ours have no other."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)


Opening: TypeAlias = Callable[[Path, str, int], MetricSink]
"""Opens a sink for (the run's folder, the run's name, how many steps it has done already)."""

SINKS: Mapping[str, Opening] = {"lines": Lines, "mlflow": MLflow, "tensorboard": TensorBoard, "wandb": WandB}


def check_sinks(names: Sequence[str]) -> None:
    """Raise UnknownNameError for a sink that there is not."""
    for name in names:
        if name not in SINKS:
            raise UnknownNameError("metric sink", name, SINKS)


@contextmanager
def opened(
    names: Sequence[str], folder: Path, run: str, after: int, more: Sequence[MetricSink] = ()
) -> Iterator[Sequence[MetricSink]]:
    """The sinks called `names` and `more`, closed at the end; `after` steps were done before."""
    check_sinks(names)
    found: list[MetricSink] = list(more)
    try:
        for name in names:
            found.append(SINKS[name](folder, run, after))
        yield found
    finally:
        for sink in found:
            sink.close()
