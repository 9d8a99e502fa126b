"""Code that passes its tests, run in isolation.

The tests see the code and the code must not see the tests' verdict: a sandbox that proves that the tests were reached is
what `score.scorers.code_tests` gives. Another runner is passed as a callable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fivefold.align.rewards import Reward, Sample, Value, each
from fivefold.types import Case, Completion, Errored, Outcome, Scored

Runner = Callable[[Case, Completion], Outcome]
"""Runs a case's tests on an answer's code."""


def passes(runner: Runner | None = None, *, key: str = "tests") -> Reward:
    """1 where the tests under `key` in the case's metadata pass, 0 where they fail; None without tests, errored where the
    sandbox failed."""
    if runner is None:
        from fivefold.score.scorers.code_tests import scorer

        runner = scorer()

    def score(sample: Sample) -> Value:
        tests = {**sample.case.metadata, "tests": sample.case.metadata.get(key)}
        outcome = runner(replace(sample.case, metadata=tests), sample.completion())
        if isinstance(outcome, Errored):
            return outcome
        return outcome.value if isinstance(outcome, Scored) else None

    return each(score)
