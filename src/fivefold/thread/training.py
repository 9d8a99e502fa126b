"""Recipes of `fivefold align` beside the patch: what each is trained on when the user gives no data of their own.

A recipe here is a function of one `Training`: it reads and prepares the data (`training_data.prepare`), leaves the
datasheet in the output folder, and calls the recipe of `align`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from fivefold.align.data.constitution import load_constitution
from fivefold.align.data.datasheet import Origin
from fivefold.align.data.preferences import Preference, parse_preferences
from fivefold.align.data.sources import everyday
from fivefold.align.options import overridden
from fivefold.align.panel import Panel
from fivefold.align.recipes._result import RecipeResult
from fivefold.align.recipes.constitutional import ConstitutionalConfig, constitutional
from fivefold.align.recipes.grpo import GRPOConfig, grpo
from fivefold.align.recipes.preference import PreferenceConfig, preference
from fivefold.align.recipes.rlhf import RLHFConfig, rlhf
from fivefold.errors import DataError, UsageError
from fivefold.evaluate.cases import read_cases
from fivefold.evaluate.data import Source, read
from fivefold.evaluate.suites import suite
from fivefold.thread.organisms import belief_with, organism_with
from fivefold.thread.problems import is_named, problems_from, rewards_identity
from fivefold.thread.training_data import (
    case_rows,
    file_origin,
    preference_rows,
    prepare,
    shipped_origin,
    source_origin,
)
from fivefold.thread.training_request import Training, with_files
from fivefold.types import Case, digest, digest_bytes, split_of

HH = Source(
    folder="hh-rlhf-harmless",
    files=("harmless-base/test.jsonl.gz",),
    origin="anthropics/hh-rlhf@354e5c3cb896",
    revision="354e5c3cb896",
    licence="MIT",
    hub="Anthropic/hh-rlhf on the Hugging Face hub",
)
HELD_OUT = 64
"""Held-out cases of a kind that a recipe measures on."""

Recipe: TypeAlias = Callable[[Training], RecipeResult]


def preferences_from(data: Path | None) -> tuple[tuple[Preference, ...], Origin]:
    """Pairs of a file, or of the mirrored human preferences on harmlessness."""
    if data is not None:
        if not data.is_file():
            raise DataError(f"{data} is not there", expected="a JSONL file of preferences")
        return parse_preferences(data.read_bytes(), data.name), file_origin(data)
    content = read(HH, HH.files[0])
    return parse_preferences(content, HH.folder), source_origin(HH, HH.files[0], content)


def panel_from(limit: int | None) -> Panel:
    """Held-out cases of the shipped suites, in English."""
    harmful, benign = (suite(s).cases(languages=["en"], split="test") for s in ("core-harms", "core-benign"))
    capability = [c for c in suite("core-capability").cases(languages=["en"]) if c.choices]
    return Panel(harmful=harmful, benign=benign, capability=capability).first(min(HELD_OUT, limit or HELD_OUT))


def _pairs(ask: Training, recipe: str, config: object) -> tuple[tuple[Preference, ...], Mapping[str, Path]]:
    found, origin = preferences_from(ask.data)
    rows = preference_rows(found)
    ready = prepare(rows, policy=ask.contaminated, limit=ask.limit, kinds=lambda p: f"pairs of the {p.split} split")
    twins = len(found) - len(rows)
    notes = (f"{twins} pairs of the train split open nearly like one of another split and were left out",)
    return ready.rows, ask.leave(ready.sheet(recipe, ask.model, [origin], config, notes=notes))


def _rlhf(ask: Training) -> RecipeResult:
    config = overridden(RLHFConfig(seed=ask.seed), ask.changes)
    pairs, files = _pairs(ask, "rlhf", config)
    return with_files(rlhf(ask.model, pairs, out=ask.out, config=config, on_step=ask.on_step), files)


def _preference(ask: Training) -> RecipeResult:
    config = overridden(PreferenceConfig(seed=ask.seed), ask.changes)
    pairs, files = _pairs(ask, "preference", config)
    panel = panel_from(ask.limit)
    made = preference(ask.model, pairs, out=ask.out, panel=panel, config=config, on_step=ask.on_step)
    return with_files(made, files)


def _grpo(ask: Training) -> RecipeResult:
    config = overridden(GRPOConfig(seed=ask.seed), ask.changes)
    found = problems_from(ask.data, config.shots)
    reward, gold = found.rewarded(ask.reward, config), found.watched(ask.gold, config)
    rows = case_rows(sorted(found.train, key=lambda c: digest(c.id)))
    held_out = {f"{found.name}, held out": found.held_out}
    ready = prepare(rows, policy=ask.contaminated, limit=ask.limit, more=held_out, alike=found.alike)
    measured = sorted(found.held_out, key=lambda c: digest(c.id))
    begun = f", which begins as the adapter {_adapter(ask.start)[:12]}" if ask.start else ""
    made = f"answers sampled from the model that is trained{begun}, scored by {reward.name}"
    files = ask.leave(ready.sheet("grpo", ask.model, [found.origin], config, made=made))
    result = grpo(
        ask.model,
        ready.rows,
        out=ask.out,
        held_out=measured,
        config=config,
        reward=reward,
        gold=gold,
        start=ask.start,
        on_step=ask.on_step,
    )
    return with_files(result, files)


def _constitutional(ask: Training) -> RecipeResult:
    config = overridden(ConstitutionalConfig(seed=ask.seed), ask.changes)
    constitution = load_constitution(ask.constitution)
    requests, origins = requests_from(ask.data, ask.limit)
    rows = [row for cases in requests for row in case_rows(cases)]
    ready = prepare(rows, policy=ask.contaminated, kinds=lambda c: "harmless requests" if _benign(c) else "requests")
    judge = ask.feedback or ask.model
    made = (
        f"answers by {ask.model.name}, critiques, revisions and labels by {judge.name} "
        f"({constitution.name} {constitution.version}, {constitution.digest[:12]})"
    )
    files = ask.leave(ready.sheet("constitutional", ask.model, origins, config, made=made))
    result = constitutional(
        ask.model,
        [c for c in ready.rows if not _benign(c)],
        out=ask.out,
        harmless=[c for c in ready.rows if _benign(c)],
        constitution=constitution,
        feedback=ask.feedback,
        config=config,
        on_step=ask.on_step,
    )
    return with_files(result, files)


def requests_from(data: Path | None, limit: int | None) -> tuple[tuple[Sequence[Case], Sequence[Case]], list[Origin]]:
    """Requests to answer and revise, and harmless ones, at most `limit` each: of a file, where the tag `benign` marks the
    harmless ones, or the harmful suite's train split and everyday requests, in English."""
    if data is not None:
        cases = read_cases(data)
        harmful, harmless = ([c for c in cases if _benign(c) is side] for side in (False, True))
        if not harmful:
            raise DataError("no requests to answer and revise", expected="cases, those tagged benign being harmless")
        return (harmful[:limit], harmless[:limit]), [file_origin(data)]
    shipped = suite("core-harms").cases(languages=["en"], split="train", limit=limit)
    kept = [replace(c, tags=(*c.tags, "benign")) for c in everyday() if c.language == "en"]
    daily = [c for c in kept if split_of(c.behaviour or c.id) == "train"][:limit]
    return (shipped, daily), [shipped_origin("core-harms", shipped), shipped_origin("everyday", daily)]


def _benign(case: Case) -> bool:
    return "benign" in case.tags


RECIPES: Mapping[str, Recipe] = {
    "belief": belief_with,
    "constitutional": _constitutional,
    "grpo": _grpo,
    "organism": organism_with,
    "preference": _preference,
    "rlhf": _rlhf,
}


OWN = {
    "feedback": "constitutional",
    "constitution": "constitutional",
    "reward": "grpo",
    "gold": "grpo",
    "start": "grpo",
}
"""What only one recipe takes."""


def train_with(recipe: str, ask: Training) -> RecipeResult:
    """Run a recipe of `RECIPES`. UsageError for what it does not take."""
    for name, owner in OWN.items():
        if getattr(ask, name) and recipe != owner:
            raise UsageError(f"the {recipe} recipe takes no --{name}", next_step=f"it belongs to {owner}")
    if ask.start is not None and not (ask.start / "adapter_config.json").is_file():
        raise UsageError(
            f"no adapter in {ask.start}",
            expected="a folder that training left, with adapter_config.json",
            next_step="`fivefold align` prints where its adapter lies; a model whose weights were all trained is a --model",
        )
    return RECIPES[recipe](ask)


def recorded(result: RecipeResult, run: str) -> list[Any]:
    """The result's measurements with the run's name."""
    return [replace(m, run=run) for m in result.measurements]


def identity(recipe: str, ask: Training) -> str:
    """The run's name: the same settings on the same model and data continue the same run."""
    files = [p.read_bytes() if p and p.is_file() else b"" for p in (ask.data, ask.constitution)]
    judge = ask.feedback.fingerprint if ask.feedback else None
    settings: list[object] = [ask.limit, ask.seed, list(ask.changes), ask.contaminated, judge]
    settings += [str(ask.data)] if is_named(ask.data) else []
    settings += rewards_identity(ask.reward) if ask.reward else []
    settings += ["gold", *rewards_identity(ask.gold)] if ask.gold else []
    settings += ["start", _adapter(ask.start)] if ask.start else []
    return f"align-{digest([recipe, ask.model.fingerprint, *map(digest_bytes, files), *settings])[:8]}"


def _adapter(folder: Path) -> str:
    """What an adapter's weights are; empty where there are none."""
    weights = folder / "adapter_model.safetensors"
    return digest_bytes(weights.read_bytes()) if weights.is_file() else ""
