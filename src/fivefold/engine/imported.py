"""An Inspect log that somebody else wrote, as outcomes. Its archive is checked before Inspect is given it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivefold.engine.outside import _id, _outcomes
from fivefold.errors import DataError, MissingExtraError
from fivefold.types import Outcome, digest

MAX_MEMBERS = 500_000
MAX_UNPACKED = 8_000_000_000
MAX_RATIO = 1_000
"""Bytes unpacked for each byte packed, beyond which a member is a bomb rather than a transcript."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """What a log says. `outcomes`: scorer -> sample -> outcome; `metadata`: sample -> what the task says of it."""

    task: str
    model: str
    version: str
    status: str
    outcomes: Mapping[str, Mapping[str, Outcome]]
    metadata: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]


def read_log(path: Path) -> Log:
    """Read an `.eval` file. DataError when it is no such archive, unpacks to too much, or does not hold a log."""
    check_archive(path)
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise MissingExtraError("inspect_ai", "eval") from error
    try:
        log = read_eval_log(str(path.absolute()), exclude_fields={"messages", "events", "store", "attachments"})
    except Exception as error:
        raise DataError(f"{path} does not hold an Inspect log", got=f"{type(error).__name__}: {error}"[:300]) from error
    samples = log.samples or []
    judge = digest({"imported from": "inspect", "task": log.eval.task, "version": log.eval.task_version})
    config = log.eval.model_generate_config.model_dump(exclude_none=True)
    return Log(
        task=log.eval.task,
        model=log.eval.model,
        version=str(log.eval.packages.get("inspect_ai", "unknown")),
        status=log.status,
        outcomes=_outcomes(samples, judge=judge) if samples else {},
        metadata={_id(s): dict(s.metadata) for s in samples},
        settings={**config, "task_version": str(log.eval.task_version)},
    )


def check_archive(path: Path) -> None:
    """DataError unless it is a zip whose members stay within the limits by its own table of contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is not an .eval log", got=str(error)[:200]) from error
    unpacked = sum(m.file_size for m in members)
    if len(members) > MAX_MEMBERS or unpacked > MAX_UNPACKED:
        raise DataError(
            f"{path} unpacks to too much",
            expected=f"at most {MAX_MEMBERS} members and {MAX_UNPACKED} bytes",
            got=f"{len(members)} members, {unpacked} bytes",
        )
    for member in members:
        if member.file_size > 1_000_000 and member.file_size > MAX_RATIO * max(1, member.compress_size):
            raise DataError(f"{path}: {member.filename[:80]} is packed too tightly to be a transcript")
        if member.filename.startswith(("/", "\\")) or ".." in member.filename.split("/"):
            raise DataError(f"{path}: a member's name leads out of the archive", got=member.filename[:80])
