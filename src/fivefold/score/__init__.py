"""(Case, Completion) -> Outcome: rules, likelihood, judges; the judge of answers with its measured error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivefold.registry import check_options, named, registry

if TYPE_CHECKING:
    from fivefold.score.protocol import Scorer


def scorer(spec: str, **options: Any) -> Scorer:
    """The registered scorer that `spec` names, `rubric` or with options `classifier(model=PATH, positive=harmful)`;
    those given as arguments win. UnknownNameError suggests the nearest name or option, UsageError says what lacks."""
    name, written = named(spec) or (spec, {})
    factory = registry("scorer").module(name).scorer
    check_options(factory, name, {**written, **options})
    made: Scorer = factory(**{**written, **options})
    return made
