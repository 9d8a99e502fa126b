"""A judge by one string, wherever one is named: a scorer with its options, or a model that judges by the rubric.

refusal                                              the shipped rules
classifier(model=PATH, positive=harmful)             a local text classifier
policy(policy=FILE, model=smollm2)                   a written policy, asked of any model
rubric(model=openai/…, max_new_tokens=96)            the rubric, asked of any model
smollm2                                              the same, for short
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fivefold.errors import UnknownNameError
from fivefold.registry import named, registry
from fivefold.runtime._cache import file_digest
from fivefold.runtime.cached import CachedModel, Memory
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Model
from fivefold.score import scorer
from fivefold.score.protocol import Scorer

ASKING = ("rubric", "policy")
"""Scorers that ask the model in their option `model`."""


def judge_named(spec: str, memory: Memory | None = None) -> Scorer:
    """The judge that `spec` names. With a `memory`, what a judge's model said of a text is not asked again."""
    name, options = ("rubric", {"model": spec}) if is_model(spec) else named(spec) or (spec, {})
    if name in ASKING and isinstance(options.get("model"), str):
        model = _judging_model(options["model"], spec)
        options = {**options, "model": model if memory is None else CachedModel(model, memory)}
    return scorer(name, **options)


def _judging_model(name: str, spec: str) -> Model:
    """The model of a judge; UnknownNameError that names the scorers too where a bare word is neither."""
    try:
        return loaded(name)
    except UnknownNameError as error:
        if name != spec:
            raise
        raise UnknownNameError("judge", spec, [*registry("scorer").names(), *error.known]) from error


def is_model(spec: str) -> bool:
    """Whether `spec` names a model rather than a scorer; UnknownNameError for options of a scorer that is not there."""
    found, known = named(spec), registry("scorer").names()
    if found is not None and found[1] and found[0] not in known:
        raise UnknownNameError("scorer", found[0], known)
    return found is None or found[0] not in known


def files_of(spec: str | None) -> dict[str, str]:
    """SHA-256 of every local file that a judge's options name, so that a step runs again when one changes."""
    _, options = named(spec or "") or ("", {})
    roots = [Path(value).expanduser() for value in options.values() if isinstance(value, str)]
    found = [f for root in roots for f in (sorted(root.rglob("*")) if root.is_dir() else [root]) if f.is_file()]
    return {str(f): file_digest(f) for f in found}


@cache
def loaded(spec: str) -> Model:
    """A helping model or judge, loaded once for all attacks and versions of a process."""
    return load(spec)
