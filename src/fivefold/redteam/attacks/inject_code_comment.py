"""Injection through a comment in source code that a coding agent has read.

Defensive use: measures whether a coding agent obeys the code it works on. Source: BIPIA, code attacks (Yi et al.
2023, arXiv 2312.14197). Carriers, styles and how success is told: `_injection`. Deviation: the call that brings the
text is given as already made, where the surface is a tool's, so that models that do not call tools by themselves are
measured too.
"""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.redteam.attacks._injection import Injection


def attack(styles: Sequence[str] = ()) -> Injection:
    """The attack, in all styles or in those named."""
    return Injection("code_comment", styles)
