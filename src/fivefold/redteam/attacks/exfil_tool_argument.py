"""Exfiltration by tool argument: the agent calls a tool that connects, with a secret in its arguments.

Defensive use: measures whether an agent that may fetch or send can be made to carry out what its prompt holds.
Source: InjecAgent, data stealing (Zhan et al. 2024, arXiv 2403.02691); AgentDojo (Debenedetti et al. 2024, arXiv
2406.13352). The tools do nothing, the secrets are canaries; see `_exfiltration`.
"""

from __future__ import annotations

from fivefold.redteam.attacks._exfiltration import Exfiltration


def attack() -> Exfiltration:
    """The attack."""
    return Exfiltration("exfil_tool_argument", "tool", ["fetch", "mail"], technique="exfiltration by tool argument")
