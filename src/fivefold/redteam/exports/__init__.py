"""Findings in the formats of others, one file a format: each module has `export(findings, context) -> str`.

What attackers wrote is data: every format escapes it so that no viewer follows a link, loads an image or ends a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from fivefold.errors import UnknownNameError
from fivefold.types import Finding

FORMATS = ("avid", "cases", "md", "sarif")


@dataclass(frozen=True, kw_only=True)
class ExportContext:
    """What a document says besides the findings."""

    version: str
    """Of fivefold."""
    names: dict[str, str]
    """Model fingerprint → the name people know it by."""
    date: str = ""
    """Day of the report, ISO 8601; AVID asks for one."""


def export_findings(findings: Sequence[Finding], format: str, context: ExportContext) -> str:
    """The findings as one text in `format`."""
    if format not in FORMATS:
        raise UnknownNameError("export format", format, FORMATS)
    module = import_module(f"fivefold.redteam.exports.{format}")
    return cast(str, module.export(findings, context))
