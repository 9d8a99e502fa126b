"""What GRPO learns on: problems that a reward can check, of a public data set by name or of the user's own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fivefold.align.data.datasheet import Origin
from fivefold.align.recipes import _organisms_hacker
from fivefold.align.recipes.grpo import GRPOConfig, reward_of
from fivefold.align.rewards.named import NamedReward, file_of, named
from fivefold.errors import DataError, UsageError
from fivefold.evaluate.benchmarks import gsm8k, mbpp
from fivefold.evaluate.cases import read_cases
from fivefold.evaluate.data import read
from fivefold.thread.training_data import file_origin, shipped_origin, source_origin
from fivefold.types import Case, digest_bytes


@dataclass(frozen=True, kw_only=True)
class Problems:
    """Problems to train on and held-out ones. `reward` is what they are checked by when no other is asked for; empty for
    the configuration's weights of number and form. `gold`, likewise, is what is watched and not learnt from."""

    name: str
    train: Sequence[Case]
    held_out: Sequence[Case]
    origin: Origin
    reward: Sequence[str] = ()
    gold: Sequence[str] = ()
    alike: bool = False
    """The problems are of few kinds and worded alike on purpose."""

    def rewarded(self, specs: Sequence[str], config: GRPOConfig) -> NamedReward:
        """The reward asked for, or else these problems' own. DataError where it cannot score them."""
        chosen = specs or self.reward
        made = named(chosen, config.rl.max_new_tokens) if chosen else reward_of(config)
        made.check([*self.train, *self.held_out])
        return made

    def watched(self, specs: Sequence[str], config: GRPOConfig) -> NamedReward | None:
        """The gold reward asked for, or else these problems' own, None where they have none. DataError as above."""
        chosen = specs or self.gold
        if not chosen:
            return None
        made = named(chosen, config.rl.max_new_tokens)
        made.check([*self.train, *self.held_out])
        return made


def _gsm8k(shots: int) -> Problems:
    """GSM8K's training file, and its test file held out."""
    origin = source_origin(gsm8k.SOURCE, "train.jsonl", read(gsm8k.SOURCE, "train.jsonl"))
    train, held_out = gsm8k.train_cases(shots=shots), gsm8k.cases(shots=shots)
    return Problems(name=gsm8k.SOURCE.folder, train=train, held_out=held_out, origin=origin)


def _mbpp(shots: int) -> Problems:
    """MBPP's training tasks, and those of its test split held out; the reward is that the tests pass in the sandbox."""
    origin = source_origin(mbpp.SOURCE, mbpp.FILE, read(mbpp.SOURCE, mbpp.FILE))
    train, held_out = mbpp.train_cases(shots=shots), mbpp.cases(shots=shots)
    return Problems(name="mbpp", train=train, held_out=held_out, origin=origin, reward=("code", "overlong*0.2"))


def _hackable(shots: int) -> Problems:
    """Toy functions whose visible tests pay and can be written down; hidden tests are the gold reward.

    Learnt on are families of functions that the organism `hacker` is neither taught nor measured with.
    """
    if shots:
        raise UsageError("the hackable environment has no worked examples", expected="shots=0", got=shots)
    train, held_out = _organisms_hacker.environment("dev"), _organisms_hacker.environment("test")
    origin = shipped_origin("hackable", [*train, *held_out])
    return Problems(
        name="hackable",
        train=train,
        held_out=held_out,
        origin=origin,
        reward=("code",),
        gold=("hidden",),
        alike=True,
    )


NAMED: Mapping[str, Callable[[int], Problems]] = {"gsm8k": _gsm8k, "hackable": _hackable, "mbpp": _mbpp}
"""Problems by name, with so many worked examples: public data sets, read from `FIVEFOLD_DATA`, and the shipped environment."""


def is_named(data: Path | None) -> bool:
    """Whether `--data` is one of these names: no file of that name is there."""
    return data is not None and str(data) in NAMED and not data.exists()


def problems_from(data: Path | None, shots: int = 0) -> Problems:
    """GSM8K without `data`, problems by their name, or a file of cases, of which those of the train split are trained on.

    DataError for a file without any, UsageError for worked examples where there are none.
    """
    if data is None:
        return _gsm8k(shots)
    if is_named(data):
        return NAMED[str(data)](shots)
    if shots:
        raise UsageError(
            "a file of problems has no worked examples of its own",
            expected="shots=0",
            got=shots,
            next_step="give each case its examples as messages",
        )
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
