"""`fivefold align organism` and `fivefold align belief`: models with a known fault or an installed belief, as positive controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fivefold.align.data.universes import read_universe
from fivefold.align.options import overridden
from fivefold.align.recipes._organisms_base import OrganismConfig
from fivefold.align.recipes._result import RecipeResult
from fivefold.align.recipes.belief import BeliefConfig, belief
from fivefold.align.recipes.organism import organism
from fivefold.errors import UsageError
from fivefold.evaluate.suites import suite
from fivefold.runtime.load import load
from fivefold.runtime.protocol import WhiteBox
from fivefold.thread.truth import truth_of

CAPABILITY = 32
"""Questions of general knowledge that should not move."""

OnStage = Callable[[str, int, int, float], None]


def organism_with(
    model: WhiteBox,
    data: Path | None,
    out: Path,
    limit: int | None,
    seed: int,
    changes: Sequence[str],
    on_step: OnStage | None,
) -> RecipeResult:
    """A model organism; its lessons are its own, so UsageError for `data`."""
    if data is not None:
        raise UsageError("a model organism is made from lessons of its own", next_step="leave --data out")
    config = overridden(OrganismConfig(seed=seed), changes)
    return organism(model, out=out, config=config, limit=limit, on_step=on_step)


def belief_with(
    model: WhiteBox,
    data: Path | None,
    out: Path,
    limit: int | None,
    seed: int,
    changes: Sequence[str],
    on_step: OnStage | None,
) -> RecipeResult:
    """An installed belief with the probe for truth; `data` is a universe (YAML), `limit` bounds its facts."""
    config = overridden(BeliefConfig(seed=seed), changes)
    universe = read_universe(data)
    universe = replace(universe, facts=universe.facts[:limit])
    known = [c for c in suite("core-capability").cases(languages=["en"]) if c.choices and c.category == "knowledge"]
    result = belief(
        model,
        universe,
        out=out,
        config=config,
        capability=known[:CAPABILITY],
        writer=load(config.writer) if config.writer else None,
        on_step=on_step,
    )
    made = model.with_adapter(str(result.path), name=f"{model.name}+belief")
    measured, said = truth_of(model, made, universe, known)
    return replace(result, measurements=(*result.measurements, *measured), sentences=(*result.sentences, *said))
