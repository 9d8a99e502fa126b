"""Multiple choice as Project Moonshot stores it: the options stand in the prompt, the target is one of these lines."""

from __future__ import annotations

import re

from fivefold.errors import DataError
from fivefold.evaluate.benchmarks._base import read_json
from fivefold.evaluate.data import Source
from fivefold.types import Case, user_case

REVISION = "30fac1237547"
_OPTION = re.compile(r"(?:[A-Z]|\d)\.\s*(.*)", re.DOTALL)


def source(file: str, *, licence: str, hub: str) -> Source:
    """A file of Project Moonshot's data."""
    return Source(
        folder="moonshot-capability",
        files=(file,),
        origin=f"aiverify-foundation/moonshot-data@{REVISION}:datasets/{file}",
        revision=REVISION,
        licence=licence,
        hub=hub,
    )


def choice_cases(name: str, source: Source) -> list[Case]:
    """One case an example: the question, its options, and which is right."""
    return [
        _case(f"{name}/{i}", name, example["input"], example["target"])
        for i, example in enumerate(read_json(source, source.files[0])["examples"])
    ]


def _case(id: str, name: str, text: str, target: str) -> Case:
    lines = text.rstrip("\n").split("\n")
    first = next((i for i, line in enumerate(lines) if i and re.match(r"[A1]\.\s", line)), len(lines))
    options = lines[first:]
    if target.strip() not in (o.strip() for o in options):
        raise DataError(f"{id}: the target is not one of the options", expected=" | ".join(options), got=target)
    return user_case(
        id,
        "\n".join(lines[:first]).strip(),
        suite=name,
        choices=tuple(_words(option) for option in options),
        target=[o.strip() for o in options].index(target.strip()),
    )


def _words(option: str) -> str:
    found = _OPTION.match(option.strip())
    return found[1].strip() if found else option.strip()
