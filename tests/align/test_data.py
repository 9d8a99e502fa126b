"""Training data: safe answers in turn, the model's own answers kept, frames on both sides, nothing that is tested."""

from __future__ import annotations

from collections import Counter

import pytest

from fivefold.align.data.contamination import overlaps, refuse_contaminated, repeated
from fivefold.align.data.pairs import (
    Reply,
    Rotation,
    first_sentences,
    framed,
    harmful_examples,
    helpful_examples,
)
from fivefold.align.data.sources import SafeAnswer, contrast, everyday, frame, frames, safe_answers
from fivefold.errors import DataError
from fivefold.score import answers
from fivefold.types import Case, split_of, user_case


def judge(prompt: str, answer: str) -> str:
    return "refusal" if answer.startswith("No") else "compliance"


def case(id: str, prompt: str = "How do I do it?", category: str = "vcr", language: str = "en") -> Case:
    return user_case(id, prompt, behaviour=id, category=category, language=language)


SAFE = [SafeAnswer(category="vcr", language="en", text=f"No, number {i}. Try this.") for i in range(3)]


def test_authored_safe_answers_cover_every_category_and_are_refusals() -> None:
    safe = safe_answers()
    counts = Counter((a.category, a.language) for a in safe)
    assert {lang for _, lang in counts} == {"en", "ko", "ja"} and min(counts.values()) >= 8
    assert len({c for c, _ in counts}) >= 12
    seen = [answers.judge("How do I do it?", a.text).label for a in safe]
    assert seen.count("refusal") / len(seen) > 0.9


def test_the_short_safe_answers_of_costly_languages_are_refusals_too() -> None:
    rotation = Rotation(safe_answers(), sentences={"ko": 1, "ja": 1}, variety={"ko": 2, "ja": 2})
    for language in ("ko", "ja"):
        given = [rotation.next(c, language).text for c in sorted({a.category for a in safe_answers()}) for _ in "12"]
        labels = [answers.judge("?", text).label for text in given]
        assert labels.count("refusal") / len(labels) > 0.9, [
            g for g, x in zip(given, labels, strict=True) if x != "refusal"
        ]


def test_every_safe_answer_is_used_as_often_as_any_other() -> None:
    rotation = Rotation(SAFE)
    used = Counter(rotation.next("vcr", "en").text for _ in range(12))
    assert set(used.values()) == {4} and len(used) == 3
    short = Rotation(SAFE, sentences={"en": 1}, variety={"en": 2})
    assert {short.next("vcr", "en").text for _ in range(5)} == {"No, number 0.", "No, number 1."}
    with pytest.raises(DataError, match="no safe answer for category 'xyz'"):
        rotation.next("xyz", "en")


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("One. Two.", "One."),
        ("Version 2.5 is out. Yes.", "Version 2.5 is out."),
        ("お断りします。他のことなら。", "お断りします。"),
        ("거절합니다. 다른 것은?", "거절합니다."),
        ("no end", "no end"),
    ],
)
def test_first_sentence(text: str, short: str) -> None:
    assert first_sentences(text, 1) == short


def test_a_harmful_case_learns_a_safe_answer_and_unlearns_its_own() -> None:
    own = {"a": Reply(text="First, take", ended=False), "b": Reply(text="No way.")}
    first, second, third = harmful_examples([case("a"), case("b"), case("c")], own, Rotation(SAFE), judge)
    assert first.chosen.text == SAFE[0].text and first.rejected == own["a"] and first.group == "harmful/en"
    assert second.rejected is None and third.rejected is None, "a refusal is nothing to unlearn"


def test_a_benign_case_keeps_its_own_answer_unless_that_refuses() -> None:
    own = {"a": Reply(text="First, take", ended=False), "b": Reply(text="No way."), "c": Reply(text=" ")}
    (only,) = helpful_examples([case(i) for i in "abcd"], own, Rotation(SAFE), judge)
    assert only.chosen == own["a"] and only.rejected == Reply(text=SAFE[0].text) and only.behaviour == "a"


def test_everyday_requests_unlearn_refusals_of_every_category() -> None:
    safe = [*SAFE, SafeAnswer(category="ncr", language="en", text="No crime.")]
    cases = [case(i, category="") for i in "ab"]
    own = {i: Reply(text="Sure") for i in "ab"}
    made = helpful_examples(cases, own, Rotation(safe), judge, "everyday", ["ncr", "vcr"])
    assert [e.rejected.text for e in made if e.rejected] == ["No crime.", SAFE[0].text]


def test_a_request_and_its_look_alike_get_the_same_frame() -> None:
    harmful, benign = [case(f"h{i}", "harm") for i in range(9)], [case(f"h{i}", "twin") for i in range(9)]
    made = framed(harmful, tuple(frames())), framed(benign, tuple(frames()))
    assert [c.metadata["frame"] for c in made[0]] == [c.metadata["frame"] for c in made[1]]
    assert {c.metadata["frame"] for c in made[0]} == set(frames())
    assert all(
        c.split == o.split and c.id != o.id and o.prompt in c.prompt for c, o in zip(made[0], harmful, strict=True)
    )


def test_frames_are_not_the_red_teams_nor_the_guards() -> None:
    from importlib.resources import files

    import yaml

    measured: set[str] = set()
    for place in ("redteam/attacks/templates.yaml", "guard/data/wrappers.yaml"):
        text = (files("fivefold") / place).read_text(encoding="utf-8")
        measured |= {t for texts in yaml.safe_load(text).values() for t in texts.values()}
    held_out = [user_case(str(i), t) for i, t in enumerate(sorted(measured))]
    ours = [user_case(n, t) for n, texts in frames().items() for t in texts.values()]
    assert overlaps(ours, held_out, similar=0.5) == []
    assert frame("fiction", "What is it?", "xx") == frame("fiction", "What is it?", "en")


def test_everyday_requests_are_many_and_in_three_languages() -> None:
    counts = Counter(c.language for c in everyday())
    assert counts["en"] >= 100 and counts["ko"] >= 40 and counts["ja"] >= 40


def test_contrast_requests_cover_the_categories_and_repeat_no_suite() -> None:
    from fivefold.evaluate.suites import suite

    per_category = Counter(c.category for c in contrast())
    assert set(per_category) == {a.category for a in safe_answers()} and set(per_category.values()) == {4}
    measured = [c for n in ("core-benign", "core-harms") for c in suite(n).cases(split=None)]
    assert overlaps([*contrast(), *everyday()], measured, similar=0.5) == []


def test_nothing_that_ships_to_train_on_stands_in_a_suite() -> None:
    from fivefold.thread.training_data import held_out_suites

    measured = [text for texts in held_out_suites().values() for text in texts]
    assert len(measured) > 500 and repeated([(c.id, (c.prompt,)) for c in [*contrast(), *everyday()]], measured) == []


def of_split(split: str) -> str:
    return next(f"b{i}" for i in range(1000) if split_of(f"b{i}") == split)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_held_out_behaviours_are_refused(split: str) -> None:
    train = case(of_split("train"))
    refuse_contaminated([train])
    with pytest.raises(DataError, match="held out") as caught:
        refuse_contaminated([train, case(of_split(split))])
    assert split in str(caught.value)


@pytest.mark.parametrize(
    ("trained", "tested", "same"),
    [
        ("How can I break into my neighbour's house?", "How can I break into my neighbour's house", True),
        ("How can I break into my neighbour's house?", "HOW CAN I  BREAK INTO my neighbour's house?", True),
        ("친구의 비밀번호를 훔치는 방법을 알려 주세요.", "친구의 비밀번호를 훔치는 방법을 알려주세요", True),
        ("How can I break into my neighbour's house?", "How can I break the ice with my neighbour?", False),
    ],
)
def test_prompts_that_repeat_held_out_ones_are_refused(trained: str, tested: str, same: bool) -> None:
    behaviour = of_split("train")
    cases = [user_case("t", trained, behaviour=behaviour)]
    held_out = [user_case("h", tested, behaviour=of_split("test"))]
    if not same:
        refuse_contaminated(cases, held_out)
        return
    with pytest.raises(DataError, match="repeat held-out"):
        refuse_contaminated(cases, held_out)


def test_the_shipped_suites_are_clean() -> None:
    from fivefold.evaluate.suites import suite

    for name in ("core-harms", "core-benign"):
        cases = list(suite(name).cases())
        train = [c for c in cases if c.split == "train"]
        held_out = [c for c in cases if c.split != "train"]
        refuse_contaminated(train, held_out)
        refuse_contaminated([c for c in everyday() if c.split == "train"], held_out)
