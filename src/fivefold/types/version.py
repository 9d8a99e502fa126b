"""A model version: what was measured, patched, guarded or shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

VersionKind: TypeAlias = Literal["base", "patched", "guarded"]


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version of a model, identified by the fingerprint of everything that changes its answers.

    `source` is the spec that loads it (`smollm2`, `hf:org/name`, a path). `parent` is the id of the version it was made
    from, "" for a base. `artifacts` maps a name (adapter, model, guard, probe) to the digest of an artifact in the store.
    `created_by` is the run that made it. `patched` covers weights; a version behind guards is `guarded`, whether its
    weights are patched or not (its parent says which).
    """

    id: str
    name: str
    kind: VersionKind
    source: str
    parent: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    created_by: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> str:
        """What training changed to make it of its parent; empty where nothing was trained."""
        return "all weights" if "model" in self.artifacts else "an adapter" if "adapter" in self.artifacts else ""
