"""fivefold: align, interpret, evaluate, red-team and govern a language model on one thread of evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fivefold.api import evaluate, load

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    """Load the Python API on first use, so that `import fivefold` stays free of torch and Inspect."""
    if name in ("load", "evaluate"):
        import fivefold.api

        return getattr(fivefold.api, name)
    raise AttributeError(f"module 'fivefold' has no attribute {name!r}")
