"""Injection through a web page that the agent has opened.

Defensive use: measures whether an agent that browses obeys the pages it opens. Source: Greshake et al. 2023 (arXiv
2302.12173). Carriers, styles and how success is told: `_injection`. Deviation: the call that brings the text is given
as already made, where the surface is a tool's, so that models that do not call tools by themselves are measured too.
"""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.redteam.attacks._injection import Injection


def attack(styles: Sequence[str] = ()) -> Injection:
    """The attack, in all styles or in those named."""
    return Injection("web_page", styles)
