"""plan → steps → run → findings → decision. Read this package first: it is the whole product in one place.

`plan.py` what a run is · `steps.py` what a step is · `run.py` the loop · `house.py` the order of steps ·
`measure.py`, `attack.py`, `inside.py`, `mend.py`, `judge.py`, `papers.py` the steps · `findings.py` a finding's life.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivefold.thread import guarded, versions

if TYPE_CHECKING:
    from fivefold.thread.house import Ready, ThreadResult, prepare, run_thread

__all__ = ["Ready", "ThreadResult", "guarded", "prepare", "run_thread", "versions"]


def __getattr__(name: str) -> Any:
    """Load the run's steps on first use: they bring torch, which reading stored results does not need."""
    if name in __all__:
        from fivefold.thread import house

        return getattr(house, name)
    raise AttributeError(f"module 'fivefold.thread' has no attribute {name!r}")
