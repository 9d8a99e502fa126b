"""The Python door: `import fivefold as ff; model = ff.load("smollm2"); ff.evaluate(model, "core-harms")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fivefold.evaluate.cases import read_cases
from fivefold.evaluate.catalogue import evaluation
from fivefold.evaluate.run import EvaluationResult
from fivefold.evaluate.run import evaluate as run_evaluation
from fivefold.evaluate.safety._base import Evaluation
from fivefold.evaluate.safety._measure import evaluate_safety
from fivefold.evaluate.suites import suite, suite_names
from fivefold.evidence import Store
from fivefold.registry import registry
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Model
from fivefold.types import Case

__all__ = ["evaluate", "load"]


def evaluate(model: Model | str, what: str | Path | Sequence[Case] | Evaluation, **options: Any) -> EvaluationResult:
    """Measure a model on a suite or safety evaluation by name, a JSONL file of cases, or cases; recorded in the store of
    FIVEFOLD_HOME.

    Cases that are not a suite need `scorer=`, a scorer's name. Options: languages, split, limit (for a suite),
    max_new_tokens, temperature, seed, name.
    """
    chosen = load(model) if isinstance(model, str) else model
    with Store.open() as store:
        log_dir = store.home / "runs" / "python" / "logs"
        common: dict[str, Any] = {"log_dir": log_dir, "store": store, "cache": store, "run": "python"}
        if isinstance(what, str) and what.replace("_", "-") in suite_names():
            return run_evaluation(chosen, suite(what), **common, **options)
        if isinstance(what, str) and what.replace("-", "_") in registry("evaluation").names():
            what = evaluation(what)
        if isinstance(what, Evaluation):
            return evaluate_safety(chosen, what, **common, **options)
        if isinstance(what, Path):
            return run_evaluation(chosen, read_cases(what), **common, **options)
        if isinstance(what, str):
            suite(what)
        return run_evaluation(chosen, list(what), **common, **options)  # type: ignore[arg-type]
