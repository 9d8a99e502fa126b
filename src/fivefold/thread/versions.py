"""`version:ID`: a version of the store, an adapter on its parent, as a model like any other.

ID is a fingerprint or its beginning, as `fivefold models list` and `fivefold align` print it. So what was just trained (a patch, a
model organism) is evaluated, attacked and looked into by the commands that do so with any model.
"""

from __future__ import annotations

from typing import Any

from fivefold.errors import UnknownNameError, UsageError
from fivefold.evidence import Store
from fivefold.runtime.fingerprint import Fingerprint
from fivefold.runtime.load import load, register_loader
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
        return _as_recorded(version, options)
    if "adapter" not in version.artifacts:
        raise UsageError(
            f"{version.name} is more than an adapter on its parent",
            expected="a version that training left",
            got=", ".join(version.artifacts) or "no artifacts",
        )
    parent = _opened(store, _named(store, version.parent), options)
    assert isinstance(parent, WhiteBox)
    model = parent.with_adapter(str(store.artifact(version.artifacts["adapter"])), name=version.name)
    if not _is(model, version):
        raise UsageError(
            f"{version.name} is not what it was",
            expected=version.id[:12],
            got=model.fingerprint[:12],
            next_step="its base has changed: train it again",
        )
    return model


def _as_recorded(version: ModelVersion, options: dict[str, Any]) -> Model:
    """A model without parents, in the asked dtype or in that of the version."""
    model = load(version.source, **options)
    parts = getattr(model, "parts", None)
    kind = parts.dtype_of(version.id) if isinstance(parts, Fingerprint) and "dtype" not in options else None
    return model if kind in (None, dtype_of(model)) else load(version.source, dtype=kind, **options)


def _is(model: WhiteBox, version: ModelVersion) -> bool:
    """Whether a model is the version, in whatever dtype."""
    parts = getattr(model, "parts", None)
    if isinstance(parts, Fingerprint):
        return parts.dtype_of(version.id) is not None
    return model.fingerprint == version.id


register_loader(SCHEME, load_version)
