"""What GRPO learns on: problems that a reward can check, of a public data set by name or of the user's own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fivefold.align.data.datasheet import Origin
from fivefold.align.recipes.grpo import GRPOConfig, reward_of
from fivefold.align.rewards.named import NamedReward, file_of, named
from fivefold.errors import DataError
from fivefold.evaluate.benchmarks import gsm8k, mbpp
from fivefold.evaluate.benchmarks._base import read_jsonl, turns
from fivefold.evaluate.cases import read_cases
from fivefold.evaluate.data import read
from fivefold.thread.training_data import file_origin, source_origin
from fivefold.types import Case, digest_bytes


@dataclass(frozen=True, kw_only=True)
class Problems:
    """Problems to train on and held-out ones. `reward` is what they are checked by when no other is asked for; empty for
    the configuration's weights of number and form."""

    name: str
    train: Sequence[Case]
    held_out: Sequence[Case]
    origin: Origin
    reward: Sequence[str] = ()

    def rewarded(self, specs: Sequence[str], config: GRPOConfig) -> NamedReward:
        """The reward asked for, or else these problems' own. DataError where it cannot score them."""
        chosen = specs or self.reward
        made = named(chosen, config.rl.max_new_tokens) if chosen else reward_of(config)
        made.check([*self.train, *self.held_out])
        return made


def _gsm8k() -> Problems:
    """GSM8K's training file, and its test file held out."""
    rows = read_jsonl(gsm8k.SOURCE, "train.jsonl")
    made = [
        Case(
            id=f"gsm8k/train/{i}",
            messages=turns(ask=gsm8k.ASK.format(row["question"])),
            suite="gsm8k",
            target=row["answer"].rsplit("####", 1)[1].strip(),
        )
        for i, row in enumerate(rows)
    ]
    origin = source_origin(gsm8k.SOURCE, "train.jsonl", read(gsm8k.SOURCE, "train.jsonl"))
    return Problems(name=gsm8k.SOURCE.folder, train=made, held_out=gsm8k.cases(shots=0), origin=origin)


def _mbpp() -> Problems:
    """MBPP's training tasks, and those of its test split held out; the reward is that the tests pass in the sandbox."""
    origin = source_origin(mbpp.SOURCE, mbpp.FILE, read(mbpp.SOURCE, mbpp.FILE))
    held_out = mbpp.cases(shots=0)
    return Problems(
        name="mbpp", train=mbpp.train_cases(), held_out=held_out, origin=origin, reward=("code", "overlong*0.2")
    )


NAMED: Mapping[str, Callable[[], Problems]] = {"gsm8k": _gsm8k, "mbpp": _mbpp}
"""Public data sets by name, read from `FIVEFOLD_DATA`."""


def is_named(data: Path | None) -> bool:
    """Whether `--data` names a public data set: no file of that name is there."""
    return data is not None and str(data) in NAMED and not data.exists()


def problems_from(data: Path | None) -> Problems:
    """GSM8K without `data`, a public data set by its name, or a file of cases, of which those of the train split are
    trained on. DataError for a file without any."""
    if data is None:
        return _gsm8k()
    if is_named(data):
        return NAMED[str(data)]()
    cases = read_cases(data)
    train, rest = ([c for c in cases if (c.split == "train") is side] for side in (True, False))
    if not train:
        raise DataError(
            f"{data} holds no problems to learn from",
            expected="cases, some of the train split",
            got=f"{len(cases)} cases, all of other splits",
        )
    return Problems(name=data.name, train=train, held_out=rest, origin=file_origin(data))


def rewards_identity(specs: Sequence[str]) -> list[object]:
    """Rewards as they are written, with the hashes of the files that they name: other code is another run."""
    files = [path for path in map(file_of, specs) if path is not None and path.is_file()]
    return [list(specs), [digest_bytes(path.read_bytes()) for path in files]]
