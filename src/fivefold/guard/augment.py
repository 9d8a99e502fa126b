"""Training prompts in disguise: a frame around a request, or noise in its letters, for harmful and benign ones alike.

A guard that saw only bare requests learns that a frame is harm: benign requests in a role-play frame are then its worst
false alarms. Both kinds get the same frames at the same rate, so a frame says nothing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files

import yaml

from fivefold.guard.requests import training_requests
from fivefold.types import Case, Message

FRAMED = "framed"
"""Tag of a case made here."""


@cache
def frames(language: str) -> dict[str, str]:
    """Frame by name; each holds `{request}`. Languages without frames of their own have none."""
    text = (files("fivefold.guard") / "data" / "wrappers.yaml").read_text(encoding="utf-8")
    return {name: texts[language] for name, texts in yaml.safe_load(text).items() if language in texts}


def framed(cases: Sequence[Case], *, copies: int = 1, noise: float = 0.15) -> list[Case]:
    """`copies` variants of every case, each in a frame; a share `noise` of them with noisy letters instead.

    A variant keeps its behaviour, so it stays in the split of the request it is made from. Which frame a case gets
    follows from its behaviour and language alone: a harmful request and its look-alike get the same one.
    """
    made = []
    for case in cases:
        choices = frames(case.language)
        for i in range(copies if choices else 0):
            rng = _rng(case, i)
            name = rng.choice(sorted(choices))
            noisy = rng.random() < noise
            text = noised(case.prompt, rng) if noisy else choices[name].replace("{request}", case.prompt)
            made.append(_with_prompt(case, text, f"{case.id}+{'noise' if noisy else name}{i}"))
    return made


def training_extras(
    harmful: Sequence[Case], benign: Sequence[Case], *, everyday: Sequence[Case] = (), copies: int = 1
) -> tuple[list[Case], list[Case]]:
    """(harmful, benign) prompts that a probe learns from besides the suites' own: framed variants of the train and dev
    prompts, the guard's training requests, everyday prompts."""
    own, seen = training_requests(), [[c for c in side if c.split != "test"] for side in (harmful, benign)]
    return [*framed(seen[0], copies=copies), *own[0]], [*framed(seen[1], copies=copies), *own[1], *everyday]


def noised(text: str, rng: random.Random) -> str:
    """Inner letters of some words shuffled, and some letters' case flipped, as random search leaves them."""
    words = [_shuffled(w, rng) if len(w) > 3 and rng.random() < 0.4 else w for w in text.split(" ")]
    return "".join(c.swapcase() if rng.random() < 0.3 else c for c in " ".join(words))


def _shuffled(word: str, rng: random.Random) -> str:
    inner = list(word[1:-1])
    rng.shuffle(inner)
    return word[0] + "".join(inner) + word[-1]


def _rng(case: Case, i: int) -> random.Random:
    seed = hashlib.sha256(f"{case.behaviour or case.id}/{case.language}/{i}".encode()).digest()
    return random.Random(int.from_bytes(seed[:8], "big"))


def _with_prompt(case: Case, text: str, id: str) -> Case:
    last = max(i for i, m in enumerate(case.messages) if m.role == "user")
    messages = tuple(Message(role="user", content=text) if i == last else m for i, m in enumerate(case.messages))
    return replace(case, id=id, messages=messages, tags=(*case.tags, FRAMED), behaviour=case.behaviour or case.id)
