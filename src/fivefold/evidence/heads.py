"""Signed anchors of the chain's head, one line each in `heads.jsonl` beside the database.

A hash chain shows that a record was changed or taken out of the middle, but not that its end was cut off. Each append
therefore leaves a signed line (seq, hash, time) outside the database. Who can write the whole folder and holds the key
can still cut both: copy the last line, or the head that a run prints, to where they cannot reach.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivefold.errors import StoreError
from fivefold.evidence.chain import Record
from fivefold.evidence.signing import Signer
from fivefold.types import canonical

HEAD = "application/vnd.fivefold.head+json"
"""DSSE payload type of an anchor."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where the chain ended at a time, and the kind of its last record."""

    seq: int
    hash: str
    at: str
    kind: str = ""

    @classmethod
    def of(cls, record: Record) -> Head:
        """The head that a record makes when it is appended."""
        return cls(seq=record.seq, hash=record.hash, at=record.created_at, kind=record.kind)


class Heads:
    """The file of anchors."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def anchor(self, records: Sequence[Record], signer: Signer) -> None:
        """Append a signed line for each record.

        Unlike the record the line is not forced to the disk: a power cut that takes it leaves a record after the last
        anchor, which verification notes, and never an anchor without its record, which it would take for a cut.
        """
        line = b"".join(canonical(signer.sign(HEAD, canonical(Head.of(r)))) + b"\n" for r in records)
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, self._after_torn_line(handle) + line)
            finally:
                os.close(handle)
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written", got=error.strerror, next_step="free space or fix permissions"
            ) from error

    def lines(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """(line number, envelope) of every anchor. A line that is not JSON is a write that a kill cut short and is left
        out: whoever could garble a line could as well remove it, so nothing is lost by that."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if (envelope := _parse(line)) is not None:
                    yield number, envelope

    @staticmethod
    def _after_torn_line(handle: int) -> bytes:
        size = os.fstat(handle).st_size
        return b"\n" if size and os.pread(handle, 1, size - 1) != b"\n" else b""


def _parse(line: bytes) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
