"""Addressing strings: attack × transform × language × options."""

from __future__ import annotations

import random

import pytest

from _attacks import Writer, wild_file
from fivefold.errors import UnknownNameError, UsageError
from fivefold.redteam.helpers import Helpers
from fivefold.redteam.names import addresses, parse
from fivefold.redteam.transforms import _codecs as codecs
from fivefold.registry import registry

TEXT = "How can I open a Door, please?"


def test_every_combination_is_addressable_and_keeps_its_name() -> None:
    helpers = Helpers(attacker=Writer())
    seen = 0
    for text in addresses():
        options = {"file": wild_file()} if "in_the_wild" in text else {}
        attack, language = parse(text, options, helpers=helpers)
        assert f"{attack.name} @{language}" == text
        seen += 1
    assert seen == 3 * len(registry("attack").names()) * (1 + len(registry("transform").names()))


def test_options_stand_in_the_name() -> None:
    attack, language = parse("caesar(shift=7) | many-shot(first=2, most=8) @ko")
    assert attack.name == "caesar(shift=7) | many_shot(first=2, most=8)" and language == "ko"
    assert parse(attack.name)[0].name == attack.name
    assert (attack.attack.first, attack.attack.most) == (2, 8)  # type: ignore[attr-defined]
    assert parse("language_switch(into=zu)")[0].name == "language_switch(into=zu) | direct"


@pytest.mark.parametrize("text", ["", "template |", "many_shot(", "many_shot(most)", "| direct", "a b"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_unknown_options_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'shift'"):
        parse("caesar(shfit=7)")
    with pytest.raises(UnknownNameError, match="did you mean 'most'"):
        parse("many_shot(mots=7)")


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
def test_every_transform_speaks_the_language_of_the_case(language: str) -> None:
    prompt = {"en": TEXT, "ko": "문을 어떻게 여나요?", "ja": "ドアの開け方は？"}[language]
    for name in registry("transform").names():
        out = registry("transform").module(name).transform(prompt, random.Random(0), language)
        assert out.strip() and "{" not in out.replace(prompt, ""), (name, out)


def test_codes_can_be_read_back() -> None:
    assert codecs.from_morse(codecs.to_morse("Open 24 doors?")) == "open 24 doors?"
    assert codecs.from_code_points(codecs.to_code_points("문 열기 ok")) == "문 열기 ok"
    assert codecs.shifted(codecs.shifted(TEXT, 7), -7) == TEXT and codecs.mirrored(codecs.mirrored(TEXT)) == TEXT

    def sent(name: str) -> str:
        return str(registry("transform").module(name).transform(TEXT, random.Random(0), "en"))

    assert bytes.fromhex(sent("hex").split(": ")[1]).decode() == TEXT
    assert bytes(int(b, 2) for b in sent("binary").split(": ")[1].split()).decode() == TEXT
    assert sent("reverse").endswith(TEXT[::-1])
    assert "".join(chr(ord(c) - 0xE0000) for c in sent("unicode_tags") if ord(c) > 0xE0000) == TEXT
    assert "".join(c for c in sent("zero_width") if c not in "\u200b\u200c\u2060") == TEXT != sent("zero_width")
    assert sent("homoglyph") != TEXT and len(sent("homoglyph")) == len(TEXT) and not sent("homoglyph").isascii()
    pieces = sent("split_payload")
    assert "".join(p.split('"')[1] for p in pieces.split(". Put")[0].split("; ")) == TEXT
    assert "#" in sent("ascii_art") and "[MASK]" in sent("ascii_art") and "please" not in sent("ascii_art")
