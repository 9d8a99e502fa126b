"""A campaign's results as one JSON file, and back: every case, attempt and answer, so that curves and coverage can be drawn
from what a store holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fivefold.errors import DataError
from fivefold.redteam.campaign import Tried
from fivefold.redteam.protocol import Attempt
from fivefold.runtime.cached import completion_from_json
from fivefold.types import Case, Message, outcome_from_json, plain


def dump(campaigns: Mapping[str, Sequence[Tried]]) -> bytes:
    """Results by the name of what was attacked."""
    return json.dumps(
        {name: [_row(t) for t in tried] for name, tried in campaigns.items()}, ensure_ascii=False, indent=1
    ).encode()


def read(data: bytes) -> dict[str, tuple[Tried, ...]]:
    """Inverse of `dump`; DataError for anything else."""
    try:
        return {name: tuple(_tried(row) for row in rows) for name, rows in json.loads(data).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError("not the results of a campaign", got=repr(error)[:200]) from error


def _row(t: Tried) -> dict[str, Any]:
    return {
        "case": plain(t.case),
        "attack": t.attack,
        "outcome": plain(t.outcome),
        "cut_off": t.cut_off,
        "attempts": [plain(replace(a, seconds=round(a.seconds, 3))) for a in t.attempts],
    }


def _tried(row: Mapping[str, Any]) -> Tried:
    return Tried(
        case=_case(row["case"]),
        attack=row["attack"],
        outcome=outcome_from_json(row["outcome"]),
        cut_off=row.get("cut_off", ""),
        attempts=tuple(_attempt(a) for a in row["attempts"]),
    )


def _case(data: Mapping[str, Any]) -> Case:
    lists = {k: tuple(data[k]) for k in ("choices", "tags")}
    return Case(**{**data, **lists, "messages": _messages(data["messages"])})


def _attempt(data: Mapping[str, Any]) -> Attempt:
    completion = data["completion"]
    return Attempt(
        **{
            **data,
            "messages": _messages(data["messages"]),
            "completion": None if completion is None else completion_from_json(completion),
            "outcome": outcome_from_json(data["outcome"]),
        }
    )


def _messages(data: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(**m) for m in data)
