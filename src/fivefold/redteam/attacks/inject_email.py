"""Injection through an e-mail in the inbox that the agent has read.

Defensive use: measures whether an agent that reads mail obeys its senders. Source: AgentDojo (Debenedetti et al.
2024, arXiv 2406.13352), BIPIA (Yi et al. 2023, arXiv 2312.14197). Carriers, styles and how success is told:
`_injection`. Deviation: the call that brings the text is given as already made, where the surface is a tool's, so
that models that do not call tools by themselves are measured too.
"""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.redteam.attacks._injection import Injection


def attack(styles: Sequence[str] = ()) -> Injection:
    """The attack, in all styles or in those named."""
    return Injection("email", styles)
