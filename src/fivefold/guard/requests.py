"""The guard's own training requests: harmful one-liners and harmless ones close to them, in three languages."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import count

import yaml

from fivefold.types import Case, split_of, user_case

SUITE = "guard-requests"


@cache
def training_requests() -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """(harmful, benign) cases of `data/requests.yaml`. All belong to the train split, and no suite holds their
    behaviours."""
    rows = yaml.safe_load((files("fivefold.guard") / "data" / "requests.yaml").read_text(encoding="utf-8"))
    return tuple(_case(r, "harm", k) for r in rows for k in r["harm"]), tuple(
        _case(r, "benign", k) for r in rows for k in r["benign"]
    )


def _case(row: dict[str, dict[str, str]], kind: str, language: str) -> Case:
    id = str(row["id"])
    fields = {"suite": SUITE, "behaviour": _train_behaviour(id), "category": id[:3], "language": language}
    return user_case(f"{SUITE}/{kind}/{language}/{id}", row[kind][language], **fields)


@cache
def _train_behaviour(id: str) -> str:
    """A behaviour name for this id whose hash lies in the train split."""
    return next(name for i in count() if split_of(name := f"{SUITE}/{id}/{i}") == "train")
