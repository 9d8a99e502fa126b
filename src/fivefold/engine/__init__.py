"""Runs cases × model × scorer on Inspect and reads its logs back as outcomes. Inspect is imported when a run starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fivefold.engine.run import RunResult, run_cases

__all__ = ["RunResult", "run_cases"]


def __getattr__(name: str) -> Any:
    """Load the runner on first use."""
    if name in __all__:
        import fivefold.engine.run

        return getattr(fivefold.engine.run, name)
    raise AttributeError(f"module 'fivefold.engine' has no attribute {name!r}")
