"""Which of the languages of the suites a text is written in, by script alone."""

from __future__ import annotations

import re

_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_KANA = re.compile(r"[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9d]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")


def scripts(text: str) -> dict[str, int]:
    """Number of letters of each script: `hangul`, `kana`, `han`, `latin`, and `other` for every other letter."""
    counts = {
        "hangul": len(_HANGUL.findall(text)),
        "kana": len(_KANA.findall(text)),
        "han": len(_HAN.findall(text)),
        "latin": len(_LATIN.findall(text)),
    }
    letters = sum(c.isalpha() for c in text)
    return {**counts, "other": max(0, letters - sum(counts.values()))}


def language_of(text: str) -> str:
    """`ko` if Hangul carries the text, `ja` if kana or Han does, else `en`.

    One Hangul or Japanese letter counts for three Latin ones: these texts quote Latin names, English ones rarely quote
    Hangul.
    """
    n = scripts(text)
    korean, japanese = 3 * n["hangul"], 3 * (n["kana"] + n["han"])
    if max(korean, japanese) <= n["latin"]:
        return "en"
    return "ko" if korean >= japanese else "ja"
