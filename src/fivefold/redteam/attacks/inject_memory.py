"""Injection through memory: a note of an earlier conversation holds an order.

Defensive use: measures whether a poisoned memory is obeyed in a later conversation. Source: memory poisoning as in
MINJA (Dong et al. 2025, arXiv 2503.03704) and AgentPoison (Chen et al. 2024, arXiv 2407.12784). Carriers, styles and
how success is told: `_injection`. Deviation: the call that brings the text is given as already made, where the
surface is a tool's, so that models that do not call tools by themselves are measured too.
"""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.redteam.attacks._injection import Injection


def attack(styles: Sequence[str] = ()) -> Injection:
    """The attack, in all styles or in those named."""
    return Injection("memory", styles)
