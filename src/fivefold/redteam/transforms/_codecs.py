"""Codes and ciphers as pure functions of text, for transforms and for attacks that read answers back."""

from __future__ import annotations

import string
from collections.abc import Mapping

LOWER, UPPER = string.ascii_lowercase, string.ascii_uppercase

_CODES = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----. .-.-.- --..-- ..--.. .----. -....- -..-."
)
MORSE: Mapping[str, str] = dict(zip(LOWER + string.digits + ".,?'-/", _CODES.split(), strict=True))
_FROM_MORSE = {code: char for char, code in MORSE.items()}


def shifted(text: str, by: int) -> str:
    """Latin letters moved along the alphabet; everything else as it is."""
    by %= 26
    return text.translate(str.maketrans(LOWER + UPPER, LOWER[by:] + LOWER[:by] + UPPER[by:] + UPPER[:by]))


def mirrored(text: str) -> str:
    """Latin letters as in the atbash cipher, a for z; its own inverse."""
    return text.translate(str.maketrans(LOWER + UPPER, LOWER[::-1] + UPPER[::-1]))


def to_morse(text: str) -> str:
    """International Morse code, letters apart by a blank and words by ` / `; other scripts stay as they are."""
    return " / ".join(" ".join(MORSE.get(c, c) for c in word) for word in text.lower().split())


def from_morse(code: str) -> str:
    """Lower-case text of Morse code; what is no code stays as it is."""
    return " ".join("".join(_FROM_MORSE.get(c, c) for c in word.split()) for word in code.split("/"))


def to_code_points(text: str) -> str:
    """Decimal code points, apart by blanks."""
    return " ".join(str(ord(c)) for c in text)


def from_code_points(code: str) -> str:
    """Text of decimal code points; what is no number stays as it is."""
    return "".join(chr(int(t)) if t.isascii() and t.isdigit() and int(t) < 0x110000 else t for t in code.split())


def asked(texts: Mapping[str, str], text: str, language: str) -> str:
    """`text` in the place `{text}` of an instruction in a language, English where there is none."""
    return texts.get(language, texts["en"]).replace("{text}", text)
