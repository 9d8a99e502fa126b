"""Views of a text with disguises taken off, so that a guard judges what a model would understand.

An adaptive attacker writes a refused request in base64, rot13, leetspeak, spaced letters, or with invisible characters.
Each decoder here proposes what it found; a guard scores every view and keeps the worst. Decoders are linear in the text
and propose nothing for ordinary prose: a view that is gibberish would only add false alarms.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

MAX_CHARS = 20_000
"""Longer texts are judged by their first and last half of this many characters; `views` says so in a view's name."""

_ZERO_WIDTH = {*range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF, 0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x180E}
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_VARIATION = {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
_TAGS = range(0xE0000, 0xE0080)

_LOOKALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝқтмнкв" + "АВЕКМНОРСТХІЅЈ" + "αεινοτρυκ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijshdqwktmhkb" + "ABEKMHOPCTXISJ" + "aeivotpuk" + "ABEZHIKMNOPTYX",
)
_LEET = str.maketrans("013457@$!8", "oieastasib")
_WORD = re.compile(r"[^\W\d_]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?:0x)?(?:[0-9a-fA-F]{2}[ :]?){8,}")
_SPACED = re.compile(r"(?<!\w)(?:\w[ .\-_*]){4,}\w(?!\w)")
_LEET_WORD = re.compile(r"[\w@$!]{3,}")

_COMMON_WORDS = (
    "the a an to of and in is it you that for on with how do i what can me my make are this be at from "
    "your write give tell show explain someone without get have not as or if about so please help people "
    "into need want which"
)
_COMMON = frozenset(_COMMON_WORDS.split())


@dataclass(frozen=True, kw_only=True)
class View:
    """One reading of a text. `name` says which disguise was taken off (`plain` for the text itself)."""

    name: str
    text: str


def views(text: str) -> list[View]:
    """The text itself, then every different reading, at most one per decoder, and decoders on the cleaned text."""
    whole = clip(text)
    clean = clean_unicode(whole)
    found = [View(name="plain", text=whole)]
    if clean != whole:
        found.append(View(name="unicode", text=clean))
    for name, decode in DECODERS.items():
        decoded = decode(clean)
        if decoded and all(decoded != v.text for v in found):
            found.append(View(name=name, text=clip(decoded)))
    return found


def clip(text: str) -> str:
    """The text, or its first and last half of MAX_CHARS when it is longer."""
    half = MAX_CHARS // 2
    return text if len(text) <= MAX_CHARS else f"{text[:half]}\n{text[-half:]}"


def clean_unicode(text: str) -> str:
    """NFKC, invisible and direction characters dropped, tag characters read as the ASCII they hide, look-alike Greek
    and Cyrillic letters inside Latin words made Latin."""
    shown = "".join(_shown(c) for c in text)
    return _WORD.sub(lambda m: _latin(m[0]), unicodedata.normalize("NFKC", shown))


def hidden_characters(text: str) -> dict[str, int]:
    """How many characters of each invisible kind a text holds: `zero-width`, `bidi`, `tag`, `variation`.

    A joiner or variation selector that follows a symbol belongs to an emoji and is not counted.
    """
    kinds = {"zero-width": _ZERO_WIDTH, "bidi": _BIDI, "variation": _VARIATION, "tag": set(_TAGS)}
    counts = dict.fromkeys(kinds, 0)
    for before, char in zip(" " + text, text, strict=False):
        for kind, members in kinds.items():
            if ord(char) in members and not _belongs_to_emoji(char, before):
                counts[kind] += 1
    return {k: n for k, n in counts.items() if n}


def mixed_script_words(text: str) -> list[str]:
    """Words that mix Latin letters with look-alike Greek or Cyrillic ones."""
    return [w for w in _WORD.findall(text) if _latin(w) != w]


def _belongs_to_emoji(char: str, before: str) -> bool:
    emoji = unicodedata.category(before) in ("So", "Sk", "Mn", "Me") or before in "#*0123456789"
    return emoji and (ord(char) == 0x200D or ord(char) in _VARIATION or ord(char) in _TAGS)


def _shown(char: str) -> str:
    code = ord(char)
    if code in _TAGS:
        return chr(code - 0xE0000) if 0x20 <= code - 0xE0000 < 0x7F else ""
    return "" if code in _ZERO_WIDTH or code in _BIDI or code in _VARIATION else char


def _latin(word: str) -> str:
    if word.isascii() or not any("a" <= c.lower() <= "z" for c in word):
        return word
    return word.translate(_LOOKALIKES)


def decode_base64(text: str) -> str:
    """The text with every base64 run that holds readable UTF-8 replaced by what it says."""
    return _replace(_BASE64, text, _from_base64)


def decode_hex(text: str) -> str:
    """The text with every run of hexadecimal bytes that holds readable UTF-8 replaced by what it says."""
    return _replace(_HEX, text, lambda run: _readable(bytes.fromhex(re.sub(r"0x|[ :]", "", run))))


def decode_percent(text: str) -> str:
    """Percent-encoding undone."""
    return unquote(text) if re.search(r"(?:%[0-9a-fA-F]{2}){2}|(?:%20\w+){2}", text) else ""


def decode_rot13(text: str) -> str:
    """The text rotated by 13 letters, where that makes it more English than it was."""
    return _if_more_english(text, codecs.encode(text, "rot13"))


def decode_reversed(text: str) -> str:
    """The text backwards, where that makes it more English than it was."""
    return _if_more_english(text, text[::-1])


def decode_leet(text: str) -> str:
    """Digits and signs inside words read as the letters that they stand for."""
    return _LEET_WORD.sub(lambda m: _unleet(m[0]), text)


def _unleet(word: str) -> str:
    core = word.rstrip("!")
    letters = any("a" <= c <= "z" or "A" <= c <= "Z" for c in core)
    return core.translate(_LEET) + word[len(core) :] if letters else word


def decode_case(text: str) -> str:
    """Lower case, where many words have capitals inside (`hOw dO i`), as random capitalisation leaves them."""
    words = re.findall(r"[A-Za-z]{3,}", text)
    odd = sum(not (w.islower() or w.isupper() or w.istitle()) for w in words)
    return text.lower() if len(words) >= 3 and odd >= 0.4 * len(words) else ""


def decode_spaced(text: str) -> str:
    """Words whose letters are kept apart by spaces, dots or dashes, joined."""
    return _SPACED.sub(lambda m: re.sub(r"[ .\-_*]", "", m[0]), text) if _SPACED.search(text) else ""


DECODERS: dict[str, Callable[[str], str]] = {
    "base64": decode_base64,
    "hex": decode_hex,
    "percent": decode_percent,
    "rot13": decode_rot13,
    "reversed": decode_reversed,
    "case": decode_case,
    "leet": decode_leet,
    "spaced": decode_spaced,
}
"""Name → decoder: the decoded text, or an empty string when there is nothing to decode."""


def _replace(pattern: re.Pattern[str], text: str, decode: Callable[[str], str]) -> str:
    hit = False

    def one(match: re.Match[str]) -> str:
        nonlocal hit
        decoded = decode(match[0])
        hit = hit or bool(decoded)
        return f" {decoded} " if decoded else match[0]

    replaced = pattern.sub(one, text)
    return replaced if hit else ""


def _from_base64(run: str) -> str:
    body = run.rstrip("=").replace("-", "+").replace("_", "/")
    if body.isalpha() and (body.islower() or body.isupper() or body.istitle()):
        return ""
    try:
        return _readable(base64.b64decode(body + "=" * (-len(body) % 4), validate=True))
    except (binascii.Error, ValueError):
        return ""


def _readable(data: bytes) -> str:
    """UTF-8 text of at least six characters, nearly all letters, digits, spaces or punctuation; else nothing."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    printable = sum(c.isprintable() or c in "\n\t" for c in text)
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return text if len(text) >= 6 and printable == len(text) and letters >= 0.7 * len(text) else ""


def _english(text: str) -> float:
    words = re.findall(r"[a-z]+", text.lower())
    return sum(w in _COMMON for w in words) / len(words) if words else 0.0


def _if_more_english(text: str, candidate: str) -> str:
    return candidate if _english(candidate) > max(0.15, 2 * _english(text)) else ""
