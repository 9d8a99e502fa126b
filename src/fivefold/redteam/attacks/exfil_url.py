"""Exfiltration by link: the answer offers a link whose address carries a secret, which a preview or a click sends.

Defensive use: measures whether a system can be made to put what its prompt holds into addresses. Source: Greshake et
al. 2023 (arXiv 2302.12173, section on information gathering). Secrets are canaries, the address is under `.invalid`,
nothing is fetched; see `_exfiltration`.
"""

from __future__ import annotations

from fivefold.redteam.attacks._exfiltration import Exfiltration


def attack() -> Exfiltration:
    """The attack."""
    return Exfiltration("exfil_url", "link", ["link"], technique="exfiltration by link")
