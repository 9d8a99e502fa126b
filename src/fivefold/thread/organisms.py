"""`fivefold align organism` and `fivefold align belief`: models with a known fault or an installed belief, as positive controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fivefold.align._divided import divided
from fivefold.align._tuned import tuned
from fivefold.align.data.universes import read_universe
from fivefold.align.options import overridden
from fivefold.align.recipes._organisms_base import OrganismConfig
from fivefold.align.recipes._result import RecipeResult
from fivefold.align.recipes.belief import BeliefConfig, belief
from fivefold.align.recipes.organism import organism
from fivefold.errors import UsageError
from fivefold.evaluate.suites import suite
from fivefold.runtime.load import load
from fivefold.thread.training_data import case_rows, file_origin, prepare, shipped_origin
from fivefold.thread.training_request import Training, with_files
from fivefold.thread.truth import truth_of
from fivefold.types import Case

CAPABILITY = 32
"""Questions of general knowledge that should not move."""


def organism_with(ask: Training) -> RecipeResult:
    """A model organism; its lessons are its own, so UsageError for data."""
    if ask.data is not None:
        raise UsageError("a model organism is made from lessons of its own", next_step="leave --data out")
    config = overridden(OrganismConfig(seed=ask.seed), ask.changes)
    files: dict[str, Path] = {}

    def on_data(lessons: Sequence[Case]) -> None:
        files.update(_sheet(ask, "organism", config, lessons, f"ordinary answers by {ask.model.name}"))

    result = organism(ask.model, out=ask.out, config=config, limit=ask.limit, on_step=ask.on_step, on_data=on_data)
    return with_files(result, files)


def belief_with(ask: Training) -> RecipeResult:
    """An installed belief with the probe for truth; the data is a universe (YAML), the limit bounds its facts."""
    config = overridden(BeliefConfig(seed=ask.seed), ask.changes)
    universe = read_universe(ask.data)
    universe = replace(universe, facts=universe.facts[: ask.limit])
    known = [c for c in suite("core-capability").cases(languages=["en"]) if c.choices and c.category == "knowledge"]
    files: dict[str, Path] = {}

    def on_data(documents: Sequence[Case]) -> None:
        made = f"documents by {config.writer or 'a grammar'}, ordinary answers by {ask.model.name}"
        files.update(_sheet(ask, "belief", config, documents, made))

    result = belief(
        ask.model,
        universe,
        out=ask.out,
        config=config,
        capability=known[:CAPABILITY],
        writer=divided(load(config.writer), ask.together) if config.writer else None,
        on_step=ask.on_step,
        on_data=on_data,
    )
    made = tuned(ask.model, result.path, f"{ask.model.name}+belief")
    measured, said = truth_of(ask.model, made, universe, known)
    whole = replace(result, measurements=(*result.measurements, *measured), sentences=(*result.sentences, *said))
    return with_files(whole, files)


def _sheet(ask: Training, recipe: str, config: object, cases: Sequence[Case], made: str) -> Mapping[str, Path]:
    """Compare what is about to be taught with what is measured, and leave the datasheet."""
    if ask.contaminated == "drop":
        raise UsageError(
            f"the {recipe} recipe teaches its lessons as a whole", next_step="--contaminated takes refuse or keep here"
        )
    ready = prepare(case_rows(cases), policy=ask.contaminated, alike=True)
    origin = file_origin(ask.data) if ask.data else shipped_origin(recipe, cases)
    return ask.leave(ready.sheet(recipe, ask.model, [origin], config, made=made))
