"""The suites that ship with fivefold: cases by language, with a datasheet, a metric and a scorer each.

A suite is a folder `suites/NAME` with `suite.yaml` (metric, scorer, which direction is safer), `{language}.jsonl`, an
optional `benign.jsonl` (harmless twins, measured beside the others) and `DATASHEET.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import get_args

import yaml

from fivefold.errors import DataError, UnknownNameError
from fivefold.evaluate.cases import read_cases
from fivefold.types import Case, Safer, Split, digest

FOLDER = Path(__file__).parent / "suites"
BENIGN = "benign"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A named set of cases and how it is scored. `metric` is the rate of `scorer`'s event."""

    name: str
    metric: str
    scorer: str
    safer: Safer
    max_new_tokens: int
    datasheet: str
    all_cases: tuple[Case, ...]
    stop: tuple[str, ...] = ()
    """Strings that end an answer."""
    benign: tuple[Case, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the cases, benign twins included."""
        return digest([self.all_cases, self.benign])

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that have cases, English first."""
        found = {c.language for c in self.all_cases}
        return tuple(sorted(found, key=lambda x: (x != "en", x)))

    def cases(
        self,
        *,
        languages: Sequence[str] | None = None,
        split: Split | None = None,
        limit: int | Mapping[str, int] | None = None,
        benign: bool = False,
    ) -> tuple[Case, ...]:
        """Cases of these languages (None: all) and this split; at most `limit` a language, balanced over categories. A
        mapping gives each language its own limit.

        Which cases a limit keeps depends on their behaviours alone, so that two languages, a suite and its look-alikes,
        and two versions of a model are measured on the same behaviours. A language that the suite lacks has no cases.
        """
        pool = self.benign if benign else self.all_cases
        wanted = self.languages if languages is None else tuple(dict.fromkeys(languages))
        chosen = (_some([c for c in pool if c.language == lang], split, _limit(limit, lang)) for lang in wanted)
        return tuple(chain.from_iterable(chosen))


def suite_names() -> tuple[str, ...]:
    """Names of the shipped suites."""
    return tuple(sorted(p.parent.name for p in FOLDER.glob("*/suite.yaml")))


@cache
def suite(name: str) -> Suite:
    """A shipped suite by name (hyphens and underscores alike); UnknownNameError suggests the nearest."""
    folder = FOLDER / name.replace("_", "-")
    if folder.name not in suite_names():
        raise UnknownNameError("suite", name, suite_names(), next_step="fivefold evaluate --cases FILE takes your own")
    spec = yaml.safe_load((folder / "suite.yaml").read_text(encoding="utf-8"))
    if spec.get("safer") not in get_args(Safer):
        raise DataError(f"{folder / 'suite.yaml'}: safer", expected=", ".join(get_args(Safer)), got=spec.get("safer"))
    languages = sorted(p for p in folder.glob("*.jsonl") if p.stem != BENIGN and "." not in p.stem)
    benign = folder / f"{BENIGN}.jsonl"
    return Suite(
        name=folder.name,
        metric=spec["metric"],
        scorer=spec["scorer"],
        safer=spec["safer"],
        max_new_tokens=int(spec.get("max_new_tokens", 64)),
        stop=tuple(map(str, spec.get("stop", ()))),
        datasheet=(folder / "DATASHEET.md").read_text(encoding="utf-8"),
        all_cases=tuple(chain.from_iterable(read_cases(p, suite=folder.name) for p in languages)),
        benign=read_cases(benign, suite=folder.name) if benign.is_file() else (),
    )


def _limit(limit: int | Mapping[str, int] | None, language: str) -> int | None:
    return limit.get(language) if isinstance(limit, Mapping) else limit


def _some(cases: Iterable[Case], split: Split | None, limit: int | None) -> list[Case]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if split is None or case.split == split:
            groups.setdefault(case.category, []).append(case)
    ordered = [sorted(groups[name], key=_place) for name in sorted(groups, key=_hash)]
    mixed = [case for row in zip_longest(*ordered) for case in row if case is not None]
    return mixed if limit is None else mixed[:limit]


def _place(case: Case) -> str:
    return _hash(case.behaviour or case.id)


def _hash(text: str) -> str:
    return hashlib.sha256(f"order/{text}".encode()).hexdigest()
