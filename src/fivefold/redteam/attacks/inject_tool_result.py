"""Injection through a tool's result: a field of the answer holds an order.

Defensive use: measures whether an agent keeps data and orders apart. Source: InjecAgent (Zhan et al. 2024, arXiv
2403.02691). Carriers, styles and how success is told: `_injection`. Deviation: the call that brings the text is given
as already made, where the surface is a tool's, so that models that do not call tools by themselves are measured too.
"""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.redteam.attacks._injection import Injection


def attack(styles: Sequence[str] = ()) -> Injection:
    """The attack, in all styles or in those named."""
    return Injection("tool_result", styles)
