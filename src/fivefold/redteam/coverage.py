"""Coverage: which attacks, transforms, languages and entries of the public catalogues have been tried, and which have not.

"Tried" means that at least one behaviour was judged. What was cut off or failed counts as not tried, and is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from fivefold.errors import FivefoldError
from fivefold.redteam.campaign import Tried
from fivefold.redteam.names import LANGUAGES, parse
from fivefold.redteam.taxonomy import CATALOGUES, attack_taxonomy, catalogue, combined, table, transform_taxonomy
from fivefold.registry import registry
from fivefold.types import Errored, Scored, Taxonomy, Unscored

State: TypeAlias = Literal["tried", "not judged", "not tried", "no attack here"]
"""`not judged`: tried, but every behaviour failed or was cut off. `no attack here`: nothing registered addresses it."""


@dataclass(frozen=True, kw_only=True)
class Covered:
    """One row: how far something has been tried, over all results given."""

    kind: str
    """attack, transform, language, surface, or a catalogue: owasp, agentic, atlas."""
    name: str
    title: str
    state: State
    behaviours: int = 0
    judged: int = 0
    successes: int = 0
    errored: int = 0
    unscored: int = 0
    languages: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    """Of a catalogue's entry: the guards that stand against it, whether or not they stood before what was attacked."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """One result with what its address says of it."""

    item: Tried
    attack: str
    transforms: tuple[str, ...]
    taxonomy: Taxonomy


def coverage(tried: Sequence[Tried], guards: Mapping[str, Taxonomy] | None = None) -> list[Covered]:
    """Every attack, transform, language, surface and catalogue entry, with what was tried of it, and which of `guards`
    (name → what it stands against) answer a catalogue's entry."""
    standing = guards or {}
    seen = [_seen(t) for t in tried]
    known = {name: _taxonomy_of(name) for name in registry("attack").names()}
    transforms = {name: transform_taxonomy(name) for name in registry("transform").names()}
    every = [*known.values(), *transforms.values()]
    rows = [_row("attack", n, t.technique, [s for s in seen if s.attack == n]) for n, t in known.items()]
    rows += [_row("transform", n, t.technique, [s for s in seen if n in s.transforms]) for n, t in transforms.items()]
    rows += [_row("language", x, x, [s for s in seen if s.item.case.language == x]) for x in _languages(seen)]
    for name, title in table()["surfaces"].items():
        here = any(t.surface == name for t in known.values())
        rows.append(_row("surface", name, title, [s for s in seen if s.taxonomy.surface == name], here=here))
    for kind in CATALOGUES:
        for entry, title in catalogue(kind).items():
            here = any(entry in getattr(t, kind) for t in every)
            row = _row(kind, entry, title, [s for s in seen if entry in getattr(s.taxonomy, kind)], here=here)
            against = tuple(sorted(name for name, t in standing.items() if entry in getattr(t, kind)))
            rows.append(replace(row, guards=against))
    return rows


def combinations(tried: Sequence[Tried]) -> list[Covered]:
    """Every address (attack behind its transforms) and language that was tried."""
    groups: dict[tuple[str, str], list[_Seen]] = {}
    for s in map(_seen, tried):
        groups.setdefault((s.item.attack, s.item.case.language), []).append(s)
    return [_row("combination", f"{a} @{x}", g[0].taxonomy.technique, g) for (a, x), g in sorted(groups.items())]


def _row(kind: str, name: str, title: str, seen: Sequence[_Seen], *, here: bool = True) -> Covered:
    kinds = Counter(type(s.item.outcome) for s in seen)
    judged = kinds[Scored]
    state: State = "tried" if judged else "not judged" if seen else "not tried" if here else "no attack here"
    return Covered(
        kind=kind,
        name=name,
        title=title,
        state=state,
        behaviours=len({s.item.case.behaviour or s.item.case.id for s in seen}),
        judged=judged,
        successes=sum(s.item.success is not None for s in seen),
        errored=kinds[Errored],
        unscored=kinds[Unscored],
        languages=tuple(sorted({s.item.case.language for s in seen})),
    )


def _seen(item: Tried) -> _Seen:
    *chain, last = (p.split("(")[0].strip() for p in item.attack.split("|"))
    taxonomy = combined(_taxonomy_of(last), *(transform_taxonomy(t) for t in chain))
    return _Seen(item=item, attack=last, transforms=tuple(chain), taxonomy=taxonomy)


def _taxonomy_of(attack: str) -> Taxonomy:
    """The entry of an attack, without making it: it may need data or a model that are not here."""
    if attack in table()["attacks"]:
        return attack_taxonomy(attack)
    try:
        return parse(attack)[0].taxonomy
    except FivefoldError:
        return Taxonomy(surface="unknown", technique=attack)


def _languages(seen: Iterable[_Seen]) -> list[str]:
    return sorted({*LANGUAGES, *(s.item.case.language for s in seen)})
