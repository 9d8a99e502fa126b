"""The preference family on one data set: every objective trained alike, and a table from which to choose.

Columns: win rate against the base model's answers by a reward model that no objective saw, harmful compliance,
over-refusal, capability, KL divergence from the base, seconds. All objectives get the same pairs in the same order; kinds
that learn from single labelled answers (KTO) get each pair as two. Source: Rafailov et al. 2023 (DPO, arXiv:2305.18290)
and the papers in `align/losses`; the comparison follows Ivison et al. 2024 (arXiv:2406.09279).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fivefold.align import _checkpoint, _ranges
from fivefold.align._adapter import Lora
from fivefold.align._pack import Item, mismatched
from fivefold.align._tuned import need_adapters, tuned
from fivefold.align.data.preferences import Preference, by_split, chosen_items, preference_items
from fivefold.align.losses._base import load
from fivefold.align.panel import Panel, measure
from fivefold.align.recipes._result import RecipeResult, shown
from fivefold.align.recipes.rlhf import OnStage
from fivefold.align.reward import Pairs, RewardConfig, RewardModel, load_reward, train_reward
from fivefold.align.train import TrainConfig, TrainResult, check_loss, train
from fivefold.errors import DataError, UsageError
from fivefold.runtime.protocol import Request, WhiteBox
from fivefold.stats import measure_rate
from fivefold.types import Errored, Measurement, Outcome, Scored, digest

OBJECTIVES = ("sft", "dpo", "ipo", "rpo", "dpo_norm", "simpo", "orpo", "cpo", "kto")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """What is compared, and how each is trained."""

    objectives: tuple[str, ...] = OBJECTIVES
    """Losses of kind `single`, `pair` or `unpaired`; what the first one trained is what the recipe leaves."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(adapter=Lora(r=16, alpha=32), lr=3e-4, batch_items=8)
    )
    """Settings that all share; the loss is put in."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The judge of the win rate, trained on the half of the train split that the objectives do not see."""
    win_prompts: int = 64
    """Held-out conversations on which answers are compared."""
    max_new_tokens: int = 48
    """Longest answer that is compared."""
    panel_cases: int = 64
    """At most so many cases of each part of the panel."""
    prompt_tokens: int = 192
    """Longer conversations are left out."""
    answer_tokens: int = 64
    """Answers are cut to this."""
    seed: int = 0
    """Seed of everything."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "win_prompts", "max_new_tokens", "panel_cases", "prompt_tokens", "answer_tokens")
        if not self.objectives:
            raise UsageError("no objective to compare", expected="objectives=[dpo, …]", got="none")
        for name in self.objectives:
            check_loss(load(name), replace(self.train, loss=name))
        need_adapters(reward__train=self.reward.train)


def preference(
    model: WhiteBox,
    preferences: Sequence[Preference],
    *,
    out: Path,
    panel: Panel,
    config: PreferenceConfig | None = None,
    on_step: OnStage | None = None,
) -> RecipeResult:
    """Train an adapter (or all weights) per objective and measure all of them; the rows of the result are the table."""
    config = config or PreferenceConfig()
    sizes = {"prompt_tokens": config.prompt_tokens, "answer_tokens": config.answer_tokens}
    items = preference_items(model, by_split(preferences, "train"), **sizes)
    held_out = preference_items(model, by_split(preferences, "test"), **sizes)
    if len(items) < 4 or not held_out:
        raise DataError(
            "too few preferences to compare objectives",
            expected="at least 4 pairs of the train split and 1 of the test split, short enough",
            got=f"{len(items)} and {len(held_out)}",
        )
    say = on_step or (lambda *_: None)
    settings = replace(config.reward, train=replace(config.reward.train, seed=config.seed))
    made = train_reward(model, Pairs(items=items[1::2]), settings, out / "reward", held_out=held_out)
    judge = load_reward(model, out / "reward")
    prompts = by_split(preferences, "test")[: config.win_prompts]
    panel = panel.first(config.panel_cases)
    before = _answers(model, prompts, config)
    found: list[Measurement] = [made.accuracy] if made.accuracy else []
    rows: list[dict[str, Any]] = []
    runs: list[TrainResult] = []
    for name in config.objectives:
        chosen = replace(config.train, loss=name, seed=config.seed)
        runs.append(
            train(
                model,
                fitting(items[::2], name),
                chosen,
                out / name,
                on_step=lambda p, stage=name: say(stage, p.step, p.total, p.loss),  # type: ignore[misc]
            )
        )
        version = tuned(model, runs[-1].path, f"{model.name}+{name}")
        wins = win_rate(judge, prompts, _answers(version, prompts, config), before, config.answer_tokens, version)
        measured = [wins, *measure(version, panel, name=version.name, base=model, seed=config.seed)]
        found += measured
        rows.append(_row(name, measured, runs[-1].seconds))
    base_row = _row("none", measure(model, panel, name=model.name), 0.0)
    table = [base_row, *rows]
    _checkpoint.write_json(out / "table.json", table)
    accuracy = "not measured" if made.accuracy is None else shown(made.accuracy)
    return RecipeResult(
        path=runs[0].path,
        data_digest=digest(items),
        losses=runs[0].losses,
        sentences=(f"judge of the win rate: held-out accuracy {accuracy}", *map(_line, table)),
        measurements=found,
        rows=table,
        files={"table": out / "table.json"},
    )


def fitting(items: Sequence[Item], loss: str) -> list[Item]:
    """Pairs in the form that a loss takes."""
    kind = load(loss).KIND
    if kind == "pair":
        return list(items)
    if kind == "single":
        return chosen_items(items)
    singles = [replace(i.only(which), label=which == 0) for i in items for which in (0, 1)]
    return mismatched(singles)


def _answers(model: WhiteBox, prompts: Sequence[Preference], config: PreferenceConfig) -> list[str | None]:
    asked = [Request(messages=p.messages, max_new_tokens=config.max_new_tokens) for p in prompts]
    return [None if c.error else c.text for c in model.generate(asked)]


def win_rate(
    judge: RewardModel,
    prompts: Sequence[Preference],
    tuned: Sequence[str | None],
    base: Sequence[str | None],
    limit: int,
    model: WhiteBox,
) -> Measurement:
    """How often the tuned answer has the higher reward; equal answers count as half."""
    there = [i for i in range(len(prompts)) if tuned[i] is not None and base[i] is not None]
    messages = [prompts[i].messages for i in there]
    ours, theirs = (judge.of_texts(messages, [texts[i] or "" for i in there], limit) for texts in (tuned, base))
    outcomes: list[Outcome] = [Errored(error="no answer") for _ in prompts]
    for i, a, b in zip(there, ours.tolist(), theirs.tolist(), strict=True):
        value = 0.5 if tuned[i] == base[i] else float(a > b)
        outcomes[i] = Scored(
            value=value, label="win" if value == 1 else "tie" if value else "loss", judge="reward model"
        )
    return measure_rate(
        outcomes,
        metric="win_rate",
        subject=model.fingerprint,
        subject_name=model.name,
        safer="neither",
        dataset=digest([p.id for p in prompts]),
    )


def _row(name: str, measured: Sequence[Measurement], seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {"objective": name, "seconds": round(seconds, 1)}
    for m in measured:
        row[m.metric] = {"estimate": m.estimate, "low": m.low, "high": m.high, "n": m.n_scored}
    return row


def _line(row: dict[str, Any]) -> str:
    parts = [
        f"{metric} {v['estimate']:.2f} [{v['low']:.2f}, {v['high']:.2f}]"
        for metric, v in row.items()
        if isinstance(v, dict) and v["estimate"] is not None and v["low"] is not None
    ]
    return f"{row['objective']}: {', '.join(parts) or 'not measured'}, {row['seconds']} s"
