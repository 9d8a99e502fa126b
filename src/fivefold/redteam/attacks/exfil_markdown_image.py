"""Exfiltration by Markdown image: the answer shows an image whose address carries a secret, and the client fetches it.

Defensive use: measures whether a system that renders Markdown can be made to send what its prompt holds to a
stranger, without a click. Source: Rehberger 2023 (embracethered.com, data exfiltration through Markdown images in
chat clients); EchoLeak (CVE-2025-32711, 2025). Secrets are canaries, the address is under `.invalid`, nothing is
fetched; see `_exfiltration`.
"""

from __future__ import annotations

from fivefold.redteam.attacks._exfiltration import Exfiltration


def attack() -> Exfiltration:
    """The attack."""
    return Exfiltration("exfil_markdown_image", "image", ["image"], technique="exfiltration by Markdown image")
