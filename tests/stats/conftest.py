from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings
from scipy import stats as reference

settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture
def coverage() -> Callable[..., float]:
    """Exact chance that an interval for k of n holds the true rate, summed over all k."""

    def exact(interval: Callable[[int, int], object], n: int, p: float) -> float:
        total = 0.0
        for k in range(n + 1):
            found = interval(k, n)
            if found.low <= p <= found.high:  # type: ignore[attr-defined]
                total += float(reference.binom.pmf(k, n, p))
        return total

    return exact


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)
