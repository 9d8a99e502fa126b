"""From harmful and benign cases to examples with an answer to learn and an answer to unlearn.

- A harmful request: learn a safe answer in its language and category, each authored one used as often as any other so
  that the model does not settle on one phrase; unlearn the model's own complying answer.
- A benign look-alike or an everyday request: learn the model's own answer (self-distillation keeps what it can do);
  unlearn a refusal. An answer in which the model itself refuses is no example, and the request is left out.
- The same requests in a frame (role play, a forced opening, …), harmful and benign alike, so a frame decides nothing.

Which safe answer and which frame a case gets follows from its place in the data alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal

from fivefold.align.data.sources import SafeAnswer, frame
from fivefold.errors import DataError
from fivefold.types import Case, Message

Kind = Literal["harmful", "benign", "everyday"]
JudgeAnswer = Callable[[str, str], str]
"""(prompt, answer) → `refusal`, `compliance` or `incoherent`."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer as text. `ended` is False where a length limit cut it off, so its end must not be learnt."""

    text: str
    ended: bool = True


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt with the answer to learn (`chosen`) and, where there is one, the answer to unlearn (`rejected`)."""

    messages: tuple[Message, ...]
    chosen: Reply
    rejected: Reply | None
    kind: Kind
    language: str
    behaviour: str
    frame: str = ""
    prefill: str = ""

    @property
    def group(self) -> str:
        """`harmful/en`, `benign/ko`, …"""
        return f"{self.kind}/{self.language}"


class Rotation:
    """Safe answers handed out in turn, for each category and language.

    `sentences`: language → only so many sentences of each. `variety`: language → only so many answers per category,
    the shortest. None, or no entry, takes all.
    """

    def __init__(
        self,
        answers: Iterable[SafeAnswer],
        *,
        sentences: Mapping[str, int | None] | None = None,
        variety: Mapping[str, int | None] | None = None,
    ) -> None:
        by_place: dict[tuple[str, str], list[str]] = defaultdict(list)
        for answer in answers:
            limit = (sentences or {}).get(answer.language)
            text = answer.text if limit is None else first_sentences(answer.text, limit)
            by_place[answer.category, answer.language].append(text)
        self._turns = {}
        for (category, language), texts in by_place.items():
            limit = (variety or {}).get(language)
            kept = texts if limit is None else sorted(texts, key=len)[:limit]
            self._turns[category, language] = cycle(kept)

    def next(self, category: str, language: str) -> Reply:
        """The next safe answer for a request of `category` in `language`."""
        turn = self._turns.get((category, language))
        if turn is None:
            raise DataError(
                f"no safe answer for category {category!r} in {language!r}",
                expected="at least one in align/data/safe_answers.jsonl, or passed as `safe`",
            )
        return Reply(text=next(turn))


def first_sentences(text: str, n: int) -> str:
    """The first `n` sentences of `text` (full stops of English, Korean and Japanese)."""
    ends = [i + 1 for i, c in enumerate(text) if c in "。！？" or (c in ".!?" and text[i + 1 : i + 2] in ("", " "))]
    return text if len(ends) <= n else text[: ends[n - 1]].strip()


def harmful_examples(
    cases: Iterable[Case], own: Mapping[str, Reply], safe: Rotation, judge: JudgeAnswer
) -> list[Example]:
    """Examples of refusing. `own` is the model's answer by case id; a refusal among them leaves nothing to unlearn."""
    made = []
    for case in cases:
        answer = own.get(case.id)
        refused = answer is None or judge(case.prompt, answer.text) == "refusal"
        made.append(_example(case, "harmful", safe.next(case.category, case.language), None if refused else answer))
    return made


def helpful_examples(
    cases: Iterable[Case],
    own: Mapping[str, Reply],
    safe: Rotation,
    judge: JudgeAnswer,
    kind: Literal["benign", "everyday"] = "benign",
    categories: Sequence[str] = (),
) -> list[Example]:
    """Examples of going on as before. Cases that the model refused or left unanswered are left out.

    `categories` are where the refusals to unlearn come from, in turn, for cases without a category of their own.
    """
    turn, made = cycle(categories or [""]), []
    for case in cases:
        answer = own.get(case.id)
        if answer is None or not answer.text.strip() or judge(case.prompt, answer.text) == "refusal":
            continue
        made.append(_example(case, kind, answer, safe.next(case.category or next(turn), case.language)))
    return made


def _example(case: Case, kind: Kind, chosen: Reply, rejected: Reply | None) -> Example:
    return Example(
        messages=case.messages,
        chosen=chosen,
        rejected=rejected,
        kind=kind,
        language=case.language,
        behaviour=case.behaviour or case.id,
        frame=str(case.metadata.get("frame", "")),
    )


def framed(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """Each case once more inside a frame, the frames in turn; `metadata["frame"]` says which.

    Cases of one behaviour and language get the same frame, so a harmful request and its look-alike are framed alike.
    """
    places = sorted({(c.language, c.behaviour or c.id) for c in cases})
    turn = {place: names[i % len(names)] for i, place in enumerate(places)}
    return [_in_frame(c, turn[c.language, c.behaviour or c.id]) for c in cases]


def _in_frame(case: Case, name: str) -> Case:
    asked = max(i for i, m in enumerate(case.messages) if m.role == "user")
    text = frame(name, case.messages[asked].content, case.language)
    messages = tuple(Message(role=m.role, content=text) if i == asked else m for i, m in enumerate(case.messages))
    return replace(
        case,
        id=f"{case.id}+{name}",
        behaviour=case.behaviour or case.id,
        messages=messages,
        metadata={**case.metadata, "frame": name, "plain": case.id},
    )
