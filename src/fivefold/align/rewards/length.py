"""Length: a budget with a soft edge, and DAPO's soft punishment of answers that near the limit."""

from __future__ import annotations

from fivefold.align.rewards import Reward, each


def overlong(limit: int, cache: int) -> Reward:
    """0 up to `limit - cache` tokens, falling linearly to -1 at `limit`, -1 beyond.

    The soft overlong punishment of DAPO (Yu et al. 2025, arXiv:2503.14476, equation 13).
    """
    return each(lambda s: punishment(len(s.tokens), limit, cache))


def punishment(n: int, limit: int, cache: int) -> float:
    """The punishment of `n` tokens."""
    return 0.0 if n <= limit - cache else max(-1.0, (limit - cache - n) / cache)


def ended() -> Reward:
    """1 for an answer that ends by itself, 0 for one that the limit cut off."""
    return each(lambda s: float(s.ended))


def near(tokens: int, tolerance: int) -> Reward:
    """1 for an answer of `tokens` tokens, falling linearly to 0 at a distance of `tolerance`."""
    return each(lambda s: max(0.0, 1 - abs(len(s.tokens) - tokens) / tolerance))
