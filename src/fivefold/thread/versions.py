"""`version:ID`: a version of the store, an adapter on its parent or all weights, as a model like any other.

ID is a fingerprint or its beginning, as `fivefold models list` and `fivefold align` print it. So what was just trained (a patch, a
model organism) is evaluated, attacked and looked into by the commands that do so with any model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fivefold.errors import UnknownNameError, UsageError
from fivefold.evidence import Store
from fivefold.runtime.fingerprint import Fingerprint
from fivefold.runtime.load import load, load_folder, register_loader
from fivefold.runtime.precision import dtype_of
from fivefold.runtime.protocol import Model, WhiteBox
from fivefold.types import ModelVersion

SCHEME = "version"
SHORTEST = 6
"""Characters of a fingerprint that are enough, if only one version begins with them."""


def load_version(spec: str, **options: Any) -> Model:
    """The model that `version:ID` names; its parents are opened first. `options` belong to the base's backend; without a
    `dtype` among them the base is opened in what it was recorded in."""
    with Store.open() as store:
        return _opened(store, _named(store, spec.partition(":")[2]), options)


def files_of(spec: str) -> str:
    """What to scan for `spec`: of a version whose weights were all trained its folder, of any other model what was named."""
    if not spec.startswith(f"{SCHEME}:"):
        return spec
    with Store.open() as store:
        version = _named(store, spec.partition(":")[2])
        if "model" in version.artifacts:
            return str(store.artifact(version.artifacts["model"]))
    raise UsageError(
        f"{version.name} has no model files of its own",
        expected="a version whose weights were all trained",
        got=", ".join(version.artifacts) or "no artifacts",
        next_step=f"name what it was made from: {version.source}",
    )


def _named(store: Store, start: str) -> ModelVersion:
    versions = store.versions()
    found = [v for v in versions if v.id.startswith(start)] if len(start) >= SHORTEST else []
    if not found:
        raise UnknownNameError("version", start, [v.id[:12] for v in versions])
    if len(found) > 1:
        raise UsageError(f"{len(found)} versions begin with {start}", expected="more of the fingerprint")
    return found[0]


def _opened(store: Store, version: ModelVersion, options: dict[str, Any]) -> Model:
    if not version.parent:
        return _as_recorded(version, options, partial(load, version.source))
    if "model" in version.artifacts:
        folder = store.artifact(version.artifacts["model"])
        return _checked(_as_recorded(version, options, partial(load_folder, folder, version.name)), version)
    if "adapter" not in version.artifacts:
        raise UsageError(
            f"{version.name} is more than an adapter on its parent, and no folder of weights",
            expected="a version that training left",
            got=", ".join(version.artifacts) or "no artifacts",
        )
    parent = _opened(store, _named(store, version.parent), options)
    assert isinstance(parent, WhiteBox)
    model = parent.with_adapter(str(store.artifact(version.artifacts["adapter"])), name=version.name)
    return _checked(model, version)


def _checked(model: Model, version: ModelVersion) -> Model:
    """The model, which has to be the version that was recorded."""
    if not _is(model, version):
        raise UsageError(
            f"{version.name} is not what it was",
            expected=version.id[:12],
            got=model.fingerprint[:12],
            next_step="its base has changed: train it again",
        )
    return model


def _as_recorded(version: ModelVersion, options: dict[str, Any], load_it: Callable[..., Model]) -> Model:
    """A model with weights of its own, in the asked dtype or in that of the version."""
    model = load_it(**options)
    parts = getattr(model, "parts", None)
    kind = parts.dtype_of(version.id) if isinstance(parts, Fingerprint) and "dtype" not in options else None
    return model if kind in (None, dtype_of(model)) else load_it(dtype=kind, **options)


def _is(model: Model, version: ModelVersion) -> bool:
    """Whether a model is the version, in whatever dtype."""
    parts = getattr(model, "parts", None)
    if isinstance(parts, Fingerprint):
        return parts.dtype_of(version.id) is not None
    return model.fingerprint == version.id


register_loader(SCHEME, load_version)
