"""Recipes of `fivefold align` beside the patch: what each is trained on when the user gives no data of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from fivefold.align.data.preferences import Preference, parse_preferences, read_preferences
from fivefold.align.data.sources import everyday
from fivefold.align.options import overridden
from fivefold.align.panel import Panel
from fivefold.align.recipes._result import RecipeResult
from fivefold.align.recipes.constitutional import ConstitutionalConfig, constitutional
from fivefold.align.recipes.grpo import GRPOConfig, grpo
from fivefold.align.recipes.preference import PreferenceConfig, preference
from fivefold.align.recipes.rlhf import RLHFConfig, rlhf
from fivefold.errors import DataError
from fivefold.evaluate.benchmarks import gsm8k
from fivefold.evaluate.benchmarks._base import read_jsonl, turns
from fivefold.evaluate.cases import read_cases
from fivefold.evaluate.data import Source, read
from fivefold.evaluate.suites import suite
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Case, digest, split_of

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

OnStage: TypeAlias = Callable[[str, int, int, float], None]
Recipe: TypeAlias = Callable[
    [WhiteBox, Path | None, Path, int | None, int, Sequence[str], OnStage | None], RecipeResult
]


def preferences_from(data: Path | None, limit: int | None) -> tuple[Preference, ...]:
    """Pairs of a file, or of the mirrored human preferences on harmlessness; at most `limit`, by their hashes."""
    found = read_preferences(data) if data else parse_preferences(read(HH, HH.files[0]), HH.folder)
    return tuple(sorted(found, key=lambda p: p.id)[:limit])


def problems_from(data: Path | None, limit: int | None) -> tuple[list[Case], list[Case]]:
    """Word problems to train on and held-out ones: of a file by split, or GSM8K's training file and its test file."""
    if data is not None:
        cases = read_cases(data)
        train, rest = ([c for c in cases if (c.split == "train") is side] for side in (True, False))
        return train[:limit], rest[:HELD_OUT]
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
    return made[:limit], gsm8k.cases(shots=0)[: min(HELD_OUT, limit or HELD_OUT)]


def panel_from(limit: int | None) -> Panel:
    """Held-out cases of the shipped suites, in English."""
    n = min(HELD_OUT, limit or HELD_OUT)
    harmful, benign = (suite(s).cases(languages=["en"], split="test")[:n] for s in ("core-harms", "core-benign"))
    capability = [c for c in suite("core-capability").cases(languages=["en"]) if c.choices][:n]
    return Panel(harmful=harmful, benign=benign, capability=capability)


def _rlhf(
    model: WhiteBox,
    data: Path | None,
    out: Path,
    limit: int | None,
    seed: int,
    changes: Sequence[str],
    on_step: OnStage | None,
) -> RecipeResult:
    config = overridden(RLHFConfig(seed=seed), changes)
    return rlhf(model, preferences_from(data, limit), out=out, config=config, on_step=on_step)


def _preference(
    model: WhiteBox,
    data: Path | None,
    out: Path,
    limit: int | None,
    seed: int,
    changes: Sequence[str],
    on_step: OnStage | None,
) -> RecipeResult:
    config = overridden(PreferenceConfig(seed=seed), changes)
    pairs = preferences_from(data, limit)
    return preference(model, pairs, out=out, panel=panel_from(limit), config=config, on_step=on_step)


def _grpo(
    model: WhiteBox,
    data: Path | None,
    out: Path,
    limit: int | None,
    seed: int,
    changes: Sequence[str],
    on_step: OnStage | None,
) -> RecipeResult:
    config = overridden(GRPOConfig(seed=seed), changes)
    train, held_out = problems_from(data, limit)
    return grpo(model, train, out=out, held_out=held_out, config=config, on_step=on_step)


def _constitutional(
    model: WhiteBox,
    data: Path | None,
    out: Path,
    limit: int | None,
    seed: int,
    changes: Sequence[str],
    on_step: OnStage | None,
) -> RecipeResult:
    config = overridden(ConstitutionalConfig(seed=seed), changes)
    if data is None:
        harmful = list(suite("core-harms").cases(languages=["en"], split="train"))
        harmless = [c for c in everyday() if c.language == "en" and split_of(c.behaviour or c.id) == "train"]
    else:
        cases = read_cases(data)
        harmful = [c for c in cases if "benign" not in c.tags]
        harmless = [c for c in cases if "benign" in c.tags]
    if not harmful:
        raise DataError("no requests to answer and revise", expected="cases, those tagged benign being harmless")
    return constitutional(model, harmful[:limit], out=out, harmless=harmless[:limit], config=config, on_step=on_step)


RECIPES: Mapping[str, Recipe] = {
    "constitutional": _constitutional,
    "grpo": _grpo,
    "preference": _preference,
    "rlhf": _rlhf,
}


def train_with(
    recipe: str,
    model: WhiteBox,
    *,
    data: Path | None,
    out: Path,
    limit: int | None,
    seed: int,
    changes: Sequence[str],
    on_step: OnStage | None = None,
) -> RecipeResult:
    """Run a recipe of `RECIPES`; `changes` are `name=value` settings of its configuration."""
    return RECIPES[recipe](model, data, out, limit, seed, changes, on_step)


def recorded(result: RecipeResult, run: str) -> list[Any]:
    """The result's measurements with the run's name."""
    return [replace(m, run=run) for m in result.measurements]


def identity(
    recipe: str, model: WhiteBox, data: Path | None, limit: int | None, seed: int, changes: Sequence[str]
) -> str:
    """The run's name: the same settings on the same model and data continue the same run."""
    content = (
        None if data is None else digest(data.read_text(encoding="utf-8", errors="replace") if data.is_file() else "")
    )
    return f"align-{digest([recipe, model.fingerprint, content, limit, seed, list(changes)])[:8]}"
