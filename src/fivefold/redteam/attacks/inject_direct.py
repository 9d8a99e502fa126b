"""Direct injection: the user's own turn orders the system to drop what its operator told it.

Defensive use: measures whether an operator's instructions hold against the user. Source: Perez & Ribeiro 2022,
"Ignore Previous Prompt" (arXiv 2211.09527). Carriers, styles and how success is told: `_injection`. Deviation: the
call that brings the text is given as already made, where the surface is a tool's, so that models that do not call
tools by themselves are measured too.
"""

from __future__ import annotations

from collections.abc import Sequence

from fivefold.redteam.attacks._injection import Injection


def attack(styles: Sequence[str] = ()) -> Injection:
    """The attack, in all styles or in those named."""
    return Injection("direct", styles)
