"""The contract of a safety evaluation: a module whose `evaluation()` returns one of these. The file's name is its name.

Its data is the folder `data/NAME`: scenarios, a datasheet, and the scripts of two model organisms, one that behaves
and one that misbehaves. An evaluation that cannot tell its organisms apart fails its test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from fivefold.engine.world import Episode, Judge, Trace
from fivefold.errors import UnknownNameError
from fivefold.types import Outcome, Safer, Scored, Unscored, digest, digest_bytes

FOLDER = Path(__file__).parent
Organism: TypeAlias = Literal["behaves", "misbehaves"]
ORGANISMS: tuple[Organism, ...] = ("behaves", "misbehaves")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that an evaluation gives. A metric is measured under each condition that has outcomes of it."""

    name: str
    safer: Safer
    meaning: str
    unit: str = "proportion"
    """`proportion` is measured as a rate; any other unit as a mean."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A paired difference over scenarios: `metric` under `condition` minus under `control`. Called `METRIC_effect`."""

    metric: str
    condition: str
    control: str
    safer: Safer = "lower"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Episodes with their judge, and everything that its numbers need to be understood."""

    name: str
    """The module's name."""
    title: str
    """What people call it."""
    construct: str
    """What it is meant to measure."""
    scoring: str
    """How a trace becomes outcomes."""
    controls: str
    """What else could explain an outcome, and the condition that shows it."""
    weaknesses: str
    """What it is known not to see, and what it may take for something else."""
    citation: str
    """The papers that its design follows."""
    cost: str
    """Number of episodes and what they take."""
    metrics: tuple[Metric, ...]
    """The first one is the evaluation's main number."""
    main: str
    """The condition that its main number is quoted under; categories are reported within it."""
    effects: tuple[Effect, ...]
    """Controlled differences."""
    episodes: Callable[[], tuple[Episode, ...]]
    """Every scenario under every condition."""
    judge: Judge
    """What a trace came to."""
    max_new_tokens: int = 192
    """Tokens of one answer."""
    max_steps: int = 10
    """Answers in one episode, all turns together."""
    needs: tuple[str, ...] = ()
    """`sandbox` where the model's code is run."""
    judged_by: str = ""
    """Fingerprint of a model that takes part in the judging."""

    def missing(self) -> list[str]:
        """What keeps it from running here, one line each."""
        if "sandbox" not in self.needs:
            return []
        from fivefold.score import sandbox

        return list(sandbox.missing())

    @property
    def judge_digest(self) -> str:
        """SHA-256 over everything that judges a trace."""
        rules = judge_digest(self.name)
        return digest({"rules": rules, "model": self.judged_by}) if self.judged_by else rules

    @property
    def data_digest(self) -> str:
        """SHA-256 over the scenarios."""
        return digest({p.name: digest_bytes(p.read_bytes()) for p in sorted(folder(self.name).glob("scenarios*"))})

    @property
    def meaning(self) -> str:
        """Construct, scoring, controls and weaknesses in one paragraph."""
        parts = (self.construct, self.scoring, f"Controls: {self.controls}", f"Weaknesses: {self.weaknesses}")
        return " ".join(" ".join(part.split()) for part in parts)

    def chosen(self, limit: int | None) -> tuple[Episode, ...]:
        """Episodes of the first `limit` scenarios, taken in turn from every category; all conditions of each."""
        episodes = self.episodes()
        if limit is None:
            return episodes
        groups: dict[str, list[str]] = {}
        for episode in episodes:
            group = groups.setdefault(episode.category, [])
            if episode.scenario not in group:
                group.append(episode.scenario)
        longest = max(map(len, groups.values()))
        in_turn = [group[i] for i in range(longest) for group in groups.values() if i < len(group)]
        kept = set(in_turn[:limit])
        return tuple(e for e in episodes if e.scenario in kept)


def folder(name: str) -> Path:
    """The data of an evaluation."""
    return FOLDER / "data" / name


def organism(name: str, kind: str) -> Path:
    """The script of a model organism, to be loaded as `scripted:PATH`."""
    if kind not in ORGANISMS:
        raise UnknownNameError("model organism", kind, ORGANISMS)
    return folder(name) / f"{kind}.yaml"


@cache
def judge_digest(name: str) -> str:
    """SHA-256 over the code and the data that judge the traces of an evaluation."""
    files = [FOLDER / f"{name}.py", FOLDER / "_base.py", FOLDER / "_scenarios.py", *sorted(folder(name).iterdir())]
    return digest(
        {p.name: digest_bytes(p.read_bytes()) for p in files if p.suffix in (".py", ".yaml", ".md", ".jsonl")}
    )


@dataclass(frozen=True)
class Verdicts:
    """Makes the outcomes of one evaluation."""

    name: str

    def scored(self, value: float | bool, label: str, explanation: str = "") -> Scored:
        """A judged metric."""
        return Scored(value=float(value), label=label, judge=judge_digest(self.name), explanation=explanation[:500])

    def event(self, happened: bool, yes: str, no: str, explanation: str = "") -> Scored:
        """1.0 and the label `yes` when it happened, else 0.0 and `no`."""
        return self.scored(happened, yes if happened else no, explanation)

    def unscored(self, reason: str) -> Unscored:
        """No verdict was possible."""
        return Unscored(reason=reason, judge=judge_digest(self.name))

    def tool_use(self, trace: Trace) -> Scored:
        """Whether the model used the tools at all, without which nothing else of a tool world is measured."""
        return self.event(bool(trace.done), "used tools", "used none")

    def idle(self, trace: Trace) -> Unscored | None:
        """Why nothing can be said of a trace without a call; None when there is one."""
        if trace.done:
            return None
        if trace.uses:
            return self.unscored(f"every tool call failed: {trace.uses[0].error}"[:200])
        return self.unscored("no tool call could be read in the model's answers")

    def all_unscored(self, metrics: Sequence[str], why: Unscored) -> dict[str, Outcome]:
        """The same reason under each of these metrics."""
        return dict.fromkeys(metrics, why)


TOOL_USE = Metric(
    name="tool_use",
    safer="neither",
    meaning="Share of episodes with at least one tool call that could be done: what the other rates rest on.",
)
