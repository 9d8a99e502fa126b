"""Settings for every test: a busy machine may take its time, and the same commit gets the same examples.

`HYPOTHESIS_PROFILE=explore` draws new examples on every run: for looking, not for CI.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("fivefold", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", settings.get_profile("fivefold"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fivefold"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest file, so that no core stands idle behind it at the end."""
    items.sort(key=lambda item: item.path.name != "test_smoke.py")
