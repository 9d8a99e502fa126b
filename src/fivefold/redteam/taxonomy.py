"""Where attacks strike and what the public catalogues call it, as data: `taxonomy.yaml`, read and checked here.

The catalogues are OWASP Top 10 for LLM Applications 2025, OWASP Top 10 for Agentic Applications 2026, and MITRE ATLAS. An
attack of an outsider carries its own `Taxonomy`; ids that no catalogue here holds are refused by the conformance test.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from fivefold.errors import DataError
from fivefold.types import Taxonomy

CATALOGUES: tuple[Literal["owasp", "agentic", "atlas"], ...] = ("owasp", "agentic", "atlas")


@cache
def table() -> Mapping[str, Any]:
    """The whole file: `catalogues`, `surfaces`, `attacks`, `transforms`."""
    loaded: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("taxonomy.yaml").read_text(encoding="utf-8"))
    return loaded


def catalogue(name: str) -> Mapping[str, str]:
    """Id → title of one catalogue."""
    entries: Mapping[str, str] = table()["catalogues"][name]["entries"]
    return entries


def attack_taxonomy(name: str) -> Taxonomy:
    """The entry of a built-in attack; DataError when there is none."""
    return _entry("attacks", name)


def transform_taxonomy(name: str) -> Taxonomy:
    """The entry of a transform; for one of an outsider, a plain obfuscation."""
    if name not in table()["transforms"]:
        return Taxonomy(surface="user prompt", technique=name.replace("_", " "), atlas=("AML.T0068",))
    return _entry("transforms", name)


def combined(attack: Taxonomy, *transforms: Taxonomy) -> Taxonomy:
    """An attack's entry with what transforms in front of it add."""
    technique = attack.technique
    if transforms:
        technique += f" via {', '.join(t.technique for t in transforms)}"
    every = (attack, *transforms)
    return Taxonomy(
        surface=attack.surface,
        technique=technique,
        owasp=_union(t.owasp for t in every),
        agentic=_union(t.agentic for t in every),
        atlas=_union(t.atlas for t in every),
    )


def unknown_ids(taxonomy: Taxonomy) -> list[str]:
    """Ids of an entry that no catalogue here holds."""
    return [i for name in CATALOGUES for i in getattr(taxonomy, name) if i not in catalogue(name)]


def _union(parts: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(i for part in parts for i in part))


def _entry(kind: str, name: str) -> Taxonomy:
    entries = table()[kind]
    if name not in entries:
        raise DataError(
            f"taxonomy.yaml has no entry for {name!r} under {kind}", next_step="add one: surface, technique, ids"
        )
    entry = {**table()["defaults"][kind], **entries[name]}
    found = Taxonomy(
        surface=entry["surface"], technique=entry["technique"], **{c: tuple(entry.get(c, ())) for c in CATALOGUES}
    )
    if unknown := unknown_ids(found):
        raise DataError(f"taxonomy.yaml: {name} names ids that no catalogue holds", got=", ".join(unknown))
    return found
