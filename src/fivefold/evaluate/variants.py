"""The same case in another form: twins that a memorised answer does not fit, and forms that should change nothing.

Twins change what a memory would hang on, and keep what has to be known: the order of the options, the wording around
the question, the names of the people in it. A model that knows loses nothing; one that remembers does. Forms change the
template alone, as authors of evaluations do without thinking: a number under one of them is one draw of many.

Sources
- Zheng et al., "Large Language Models Are Not Robust Multiple Choice Selectors", arXiv 2309.03882 (2023), and Zong et
  al., arXiv 2310.01651 (2023): permuted options.
- Mirzadeh et al., "GSM-Symbolic", arXiv 2410.05229 (2024): renamed people in word problems.
- Sclar et al., arXiv 2310.11324 (2023): separators, casing and spacing of templates.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fivefold.errors import UnknownNameError
from fivefold.types import Case, Message

_OPTION = re.compile(r"^(?P<mark>\s*\(?(?P<letter>[A-Z])[.):]\s+)(?P<text>.+)$")

NAMES: Mapping[str, tuple[str, ...]] = {
    "she": ("Amara", "Ingrid", "Leilani", "Noor", "Sunniva", "Tomoko", "Wanjiru", "Zofia", "Ines", "Marisol"),
    "he": ("Bjarne", "Cosmin", "Dmitri", "Emeka", "Hamish", "Jorah", "Kenji", "Luca", "Osman", "Rafe"),
}
_COMMON = {
    "she": "Mary Sarah Emily Emma Anna Lisa Jane Julia Kate Laura Alice Jessica Maria Susan Linda Rachel Amy Natalia "
    "Janet Betty Julie Claire Grace Sophia Olivia Marissa Tina Carla Melanie Eliza",
    "he": "John James Robert Michael David Tom Peter Paul Mark Josh Ken Bob Ben Jack Carlos Ryan Kevin Eric Mike Adam "
    "Henry Sam Alex George Steve Daniel Brian Tim Greg Jerry Randy Albert Raymond Charlie Terry Marc",
}
_GENDER = {name: who for who, names in _COMMON.items() for name in names.split()}
_NAME = re.compile(r"\b(" + "|".join(sorted(_GENDER, key=len, reverse=True)) + r")\b")


def twin(case: Case, kind: str, *, seed: int = 0) -> Case | None:
    """The case's twin of this kind, or None where there is nothing to change. Same id, behaviour and meaning."""
    if kind not in TWINS:
        raise UnknownNameError("kind of twin", kind, TWINS)
    made = TWINS[kind](case, _rng(case, kind, seed))
    return None if made is None or made == case else replace(made, metadata={**made.metadata, "twin": kind})


def form(case: Case, name: str) -> Case:
    """The case under another template."""
    if name not in FORMS:
        raise UnknownNameError("form", name, FORMS)
    return FORMS[name](case)


def forms_for(cases: Sequence[Case]) -> tuple[str, ...]:
    """Forms that change these cases, `as given` first. A raw prompt (with its own worked examples) is left alone but
    for its spacing."""
    return tuple(name for name in FORMS if name == "as given" or any(form(c, name) != c for c in cases))


def permuted_options(case: Case, rng: random.Random) -> Case | None:
    """Options in another order, in the prompt where it lists them and in the answer key; never the same order.

    None for a case that lists no options: there the order is nowhere to be seen.
    """
    if len(case.choices) < 2 or not isinstance(case.target, int):
        return None
    lines = case.prompt.split("\n")
    places = _last_options(lines)
    if len(places) != len(case.choices):
        return None
    order = list(range(len(places)))
    while order == sorted(order):
        rng.shuffle(order)
    found = [_OPTION.match(lines[i]) for i in places]
    texts = [m["text"] for m in found if m]
    marks = [m["mark"] for m in found if m]
    for new, old in enumerate(order):
        lines[places[new]] = f"{marks[new]}{texts[old]}"
    # Choices that are letters stay where they are; choices that are texts move with theirs.
    letters = all(len(c.strip("(). ")) == 1 for c in case.choices)
    choices = case.choices if letters else tuple(case.choices[old] for old in order)
    return replace(_asked(case, "\n".join(lines)), choices=choices, target=order.index(case.target))


def renamed_people(case: Case, rng: random.Random) -> Case | None:
    """Common first names replaced by rarer ones of the same pronoun, each by the same one throughout."""
    question = case.prompt
    names = list(dict.fromkeys(_NAME.findall(question)))
    if not names:
        return None
    pools = {who: rng.sample(pool, len(pool)) for who, pool in NAMES.items()}
    new = {name: pools[_GENDER[name]].pop() for name in names if pools[_GENDER[name]]}

    def swap(text: str) -> str:
        return _NAME.sub(lambda m: new.get(m[1], m[1]), text)

    target = swap(case.target) if isinstance(case.target, str) else case.target
    return replace(_asked(case, swap(question)), choices=tuple(map(swap, case.choices)), target=target)


def reworded(case: Case, rng: random.Random) -> Case | None:
    """Another wording around the question: a template's paraphrase, the question itself untouched."""
    if case.metadata.get("style") == "raw":
        return None
    frame = rng.choice(_FRAMES)
    return _asked(case, frame.format(case.prompt.strip()))


_FRAMES = (
    "Here is something I would like you to answer: {}",
    "Please take a look at the following.\n\n{}",
    "{}\n\n(That is all I would like to know.)",
    "One question for you. {}",
)

TWINS: Mapping[str, Callable[[Case, random.Random], Case | None]] = {
    "options": permuted_options,
    "names": renamed_people,
    "wording": reworded,
}
"""Kinds of twins by name."""


def _templated(template: str) -> Callable[[Case], Case]:
    def made(case: Case) -> Case:
        return case if case.metadata.get("style") == "raw" else _asked(case, template.format(case.prompt))

    return made


def _with_system(text: str) -> Callable[[Case], Case]:
    def made(case: Case) -> Case:
        if case.metadata.get("style") == "raw" or any(m.role == "system" for m in case.messages):
            return case
        return replace(case, messages=(Message(role="system", content=text), *case.messages))

    return made


def _styled(style: str) -> Callable[[Case], Case]:
    def made(case: Case) -> Case:
        if not case.choices or case.metadata.get("style", "cloze") in (style, "raw"):
            return case
        return replace(case, metadata={**case.metadata, "style": style})

    return made


def _wider(case: Case) -> Case:
    return _asked(case, re.sub(r"(?<!\n)\n(?!\n)", "\n\n", case.prompt)) if "\n" in case.prompt else case


FORMS: Mapping[str, Callable[[Case], Case]] = {
    "as given": lambda case: case,
    "question and answer": _templated("Question: {}\nAnswer:"),
    "Q and A": _templated("Q: {}\n\nA:"),
    "instructed": _templated("Answer the following.\n\n{}"),
    "system prompt": _with_system("You are a helpful assistant."),
    "wide spacing": _wider,
    "chat template": _styled("chat"),
}
"""Templates by name. For multiple choice by likelihood, `chat template` asks through the model's template."""


def _asked(case: Case, text: str) -> Case:
    """The case with another last user turn."""
    last = max(i for i, m in enumerate(case.messages) if m.role == "user")
    turns = list(case.messages)
    turns[last] = Message(role="user", content=text)
    return replace(case, messages=tuple(turns))


def _last_options(lines: Sequence[str]) -> list[int]:
    """Line numbers of the last run of options that starts with A."""
    found: list[int] = []
    for i in reversed(range(len(lines))):
        match = _OPTION.match(lines[i])
        if match:
            found.insert(0, i)
            if match["letter"] == "A":
                return found
        elif found:
            return []
    return []


def _rng(case: Case, kind: str, seed: int) -> random.Random:
    key = f"{seed}/{kind}/{case.behaviour or case.id}"
    return random.Random(int(hashlib.sha256(key.encode()).hexdigest()[:16], 16))
