"""What training made, in the store: an adapter or a whole model as an artifact, and its version with its parent."""

from __future__ import annotations

from pathlib import Path

from fivefold.align._tuned import is_adapter, tuned
from fivefold.errors import TrainingError
from fivefold.evidence import Store
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import ModelVersion

ADAPTER, MODEL = "adapter", "model"
"""What a version's artifact is called: an adapter on its parent, or all weights, a folder that opens by itself."""
MEDIA = {ADAPTER: "application/x-peft", MODEL: "application/x-huggingface-model"}


def kind_of(path: Path) -> str:
    """`adapter` or `model`."""
    return ADAPTER if is_adapter(path) else MODEL


def record_versions(
    store: Store, model: WhiteBox, path: Path, spec: str, recipe: str, run: str, on: Path | None = None
) -> ModelVersion:
    """Keep what training `model` left in `path` and record it as a version; returns that version.

    `on` is the folder of the model that an earlier stage left by training all weights: it is a version between the two.
    """
    if model.fingerprint not in {v.id for v in store.versions()}:
        store.add_version(ModelVersion(id=model.fingerprint, name=model.name, kind="base", source=spec, created_by=run))
    parent, above = model, model.fingerprint
    if on is not None:
        parent = tuned(model, on, f"{model.name}+{on.parent.name}")
        above = _record(store, parent, on, spec, above, run).id
    return _record(store, tuned(parent, path, f"{model.name}+{recipe}"), path, spec, above, run)


def _record(store: Store, made: WhiteBox, path: Path, spec: str, parent: str, run: str) -> ModelVersion:
    if made.fingerprint == parent:
        raise TrainingError("training changed no weight, so there is no new version", next_step="raise lr or epochs")
    kind = kind_of(path)
    kept = store.put_artifact(path, name=kind, media_type=MEDIA[kind], run=run)
    return store.add_version(
        ModelVersion(
            id=made.fingerprint,
            name=made.name,
            kind="patched",
            source=spec,
            parent=parent,
            artifacts={kind: kept.digest},
            created_by=run,
        )
    )
