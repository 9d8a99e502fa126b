"""What every step of a run can reach: plan, store, model versions, progress, and the time that is left."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivefold.errors import CapabilityError, FivefoldError
from fivefold.evidence import Store
from fivefold.guard.stack import GuardedModel, GuardStack
from fivefold.runtime.cached import CachedModel
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Model, WhiteBox
from fivefold.thread.plan import Plan
from fivefold.thread.steps import Progress, Quiet, Result

if TYPE_CHECKING:
    from fivefold.types import ModelVersion

VERSIONS = ("base", "patched", "guarded", "patched+guarded")


@dataclass(kw_only=True)
class Context:
    """One run in progress. Models are loaded on first use and shared by all steps."""

    plan: Plan
    store: Store
    run: str
    subject: str
    progress: Progress = field(default_factory=Quiet)
    deadline: float | None = None
    results: dict[str, Result] = field(default_factory=dict)
    base: Model | None = None
    _versions: dict[str, Model] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The store's folder."""
        return self.store.home

    @property
    def folder(self) -> Path:
        """This run's own folder for logs, adapters and documents."""
        path = self.home / "runs" / self.run
        path.mkdir(parents=True, exist_ok=True)
        return path

    def remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def model(self, version: str = "base") -> Model:
        """A model version by its name in this run, cached answers in front of it."""
        if version not in self._versions:
            self._versions[version] = self._build(version)
        return self._versions[version]

    def whitebox(self, version: str = "base") -> WhiteBox:
        """The open model behind a version: no cache, no guard."""
        found: Any = self.model(version)
        while not isinstance(found, WhiteBox):
            inner = getattr(found, "inner", None)
            if inner is None:
                raise CapabilityError(
                    f"{self.plan.model} is not open: this step needs its weights",
                    next_step="use a local model, or leave this section out of the plan",
                )
            found = inner
        return found

    def available(self) -> list[str]:
        """The versions that exist so far, in order."""
        have = {"base"}
        if "patch" in self.results:
            have.add("patched")
        if "guard" in self.results:
            have.add("guarded")
        if {"patched", "guarded"} <= have:
            have.add("patched+guarded")
        return [v for v in VERSIONS if v in have]

    def _build(self, version: str) -> Model:
        if version == "base":
            self.base = self.base or load(self.plan.model)
            return CachedModel(self.base, self.store)
        if version == "patched":
            patch = self.results["patch"]
            path = self.store.artifact(patch["adapter"])
            return CachedModel(self.whitebox("base").with_adapter(str(path), name=patch["name"]), self.store)
        if version in ("guarded", "patched+guarded"):
            inner = self.model("patched" if version.startswith("patched") else "base")
            return GuardedModel(inner, self.guard_stack())
        raise FivefoldError(f"no version {version!r} in this run", expected=" | ".join(VERSIONS))

    def guard_stack(self) -> GuardStack:
        """The stack of guards that the guard step built, with the base model's activations for its probes."""
        from fivefold.thread.mend import build_stack

        return build_stack(self, self.results["guard"])

    def record_version(self, version: ModelVersion) -> None:
        """Add a model version to the store, once."""
        if version.id not in {v.id for v in self.store.versions()}:
            self.store.add_version(version)
