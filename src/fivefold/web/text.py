"""How text and numbers are written: hidden characters made visible, units, "not measured" for what is not there."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from typing import Any

from markupsafe import Markup

NOT_MEASURED = "not measured"
MINUS = "\u2212"
SHARES = ("proportion", "difference")

HIDDEN_RANGES: tuple[tuple[int, int], ...] = (
    (0x0, 0x8), (0xB, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x34F, 0x34F), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD),
    (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800), (0x3164, 0x3164), (0xD800, 0xF8FF),
    (0xFE00, 0xFE0E), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0xFFFE, 0xFFFF), (0x110BD, 0x110BD),
    (0x13430, 0x1345F), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0x10FFFF),
)  # fmt: skip
"""Controls, bidi and zero-width marks, fillers, variation selectors, surrogates, private use. U+FE0F is left alone: it
follows ordinary emoji."""

HIDDEN = re.compile("[" + "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in HIDDEN_RANGES) + "]")


def hidden_pattern() -> str:
    """The same ranges as the source of a JavaScript regular expression with the flag `u`."""
    return "[" + "".join(f"\\u{{{a:x}}}-\\u{{{b:x}}}" for a, b in HIDDEN_RANGES) + "]"


def visible(text: str) -> str:
    """`text` with every character that cannot be seen, or that reorders others, written as its code point."""
    return HIDDEN.sub(lambda m: f"\u27e8U+{ord(m[0]):04X}\u27e9", text.replace("\r\n", "\n"))


def finalize(value: Any) -> Any:
    """What a template prints for a value: markup as it is, text made visible, "not measured" for None."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return NOT_MEASURED
    return visible(value) if isinstance(value, str) else value


def amount(value: float | None, unit: str = "proportion") -> str:
    """A number in its unit: proportions as percentages, AUROC with three decimals, others with three digits."""
    if value is None:
        return NOT_MEASURED
    if unit == "proportion":
        return _minus(f"{100 * value:.1f}%")
    return _minus(f"{value:.3f}" if unit == "auroc" else f"{value:.3g} {unit}".rstrip())


def change(value: float | None, unit: str = "proportion") -> str:
    """A signed difference; of proportions (unit `difference` or `proportion`) in percentage points."""
    if value is None:
        return NOT_MEASURED
    return _minus(f"{100 * value:+.1f} pts" if unit in SHARES else f"{value:+.3g} {unit}".rstrip())


def interval(low: float | None, high: float | None, unit: str = "proportion", *, signed: bool = False) -> str:
    """`50.2 to 71.0%`, or "" where there is no interval."""
    if low is None or high is None:
        return ""
    if unit not in SHARES:
        return _minus(f"{low:.3f} to {high:.3f}" if unit == "auroc" else f"{low:.3g} to {high:.3g}")
    ends = f"{100 * low:+.1f} to {100 * high:+.1f}" if signed else f"{100 * low:.1f} to {100 * high:.1f}"
    return _minus(ends + (" pts" if signed else "%"))


def p_value(value: float | None) -> str:
    """A p-value, three digits."""
    if value is None:
        return NOT_MEASURED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: int | None) -> str:
    """An integer with its thousands apart."""
    return NOT_MEASURED if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours as people say them."""
    if seconds is None:
        return NOT_MEASURED
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(n: int | None) -> str:
    """Bytes in decimal units."""
    if n is None:
        return NOT_MEASURED
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= factor:
            return f"{n / factor:.1f} {unit}"
    return f"{n} B"


def moment(stamp: str | None) -> str:
    """An ISO time as `21 November 2025, 12:04 UTC`; text that is no time stays as it is."""
    if not stamp:
        return NOT_MEASURED
    try:
        when = dt.datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    zone = " UTC" if when.utcoffset() == dt.timedelta(0) else f" {when:%z}".rstrip()
    return f"{when.day} {when:%B %Y, %H:%M}{zone}"


def short(identifier: str | None, length: int = 10) -> str:
    """The beginning of an id."""
    return NOT_MEASURED if not identifier else identifier[:length]


def anchor(kind: str, name: str) -> str:
    """A fragment id for anything that has a name, whatever characters the name holds."""
    plain_name = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    if plain_name != name:
        plain_name = f"{plain_name[:40]}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return f"{kind}-{plain_name}"


def sentence(text: str) -> str:
    """First letter large."""
    return text[:1].upper() + text[1:]


def _minus(text: str) -> str:
    return text.replace("-", MINUS) if re.match(r"^-|.* -", text) else text
