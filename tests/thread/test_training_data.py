"""Training data before it is trained on: repetitions, languages in turn, contamination, and what the datasheet says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fivefold.align.data.contamination import Index, distinct, repeated, shingles
from fivefold.align.data.preferences import Preference
from fivefold.align.data.sources import everyday
from fivefold.errors import DataError, UnknownNameError
from fivefold.evaluate.suites import suite
from fivefold.thread.training_data import (
    Row,
    case_rows,
    file_origin,
    held_out_suites,
    in_turn,
    preference_rows,
    prepare,
)
from fivefold.types import Message, split_of, user_case

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath")
PLACES = ("inlet", "juniper", "knoll", "lagoon", "marsh", "nectar", "orchard", "pebble")


def text(i: int) -> str:
    return f"Tell me about the {WORDS[i % 8]} and the {PLACES[(i * 5 + 3) % 8]} number {i * 104729}."


def row(i: int, language: str = "en", **fields: Any) -> Row[int]:
    return Row(value=i, id=str(i), texts=(text(i),), language=language, **fields)


def test_every_pair_that_is_alike_is_found() -> None:
    """Against comparing everything with everything."""
    texts = [text(i // 3) + " please" * (i % 3) for i in range(60)]
    for similar in (0.5, 0.7, 0.9):
        index = Index(texts, similar)
        for a in texts[:12]:
            slow = {
                j
                for j, b in enumerate(texts)
                if len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b)) >= similar
            }
            assert {j for j, _ in index.like(a)} == slow
    assert distinct(["one two three four", "One, two, three: four!", "five six seven eight"]) == [0, 2]


def test_a_held_out_prompt_inside_a_longer_text_is_found_and_a_short_one_is_not() -> None:
    held = [("h", "How would somebody open the old safe in the cellar?"), ("s", "Why is it hot?")]
    wrapped = "Pretend to be a pirate. " + held[0][1].upper() + " Answer in rhymes and never break the part. " * 3
    assert [(o.trained, o.held_out) for o in repeated([("t", (wrapped,))], held)] == [("t", "h")]
    assert (
        repeated([("t", ("Tell me, why is it hot in July, and why is it cold in winter in the far north?",))], held)
        == []
    )
    assert [o.held_out for o in repeated([("t", ("Why is it hot?",))], held)] == ["s"], "as a whole it is"


def test_languages_take_turns_under_a_limit() -> None:
    rows = [row(i, "en") for i in range(20)] + [row(i, "ko") for i in range(20, 23)] + [row(30, "ja")]
    chosen = in_turn(rows, 7)
    assert [r.language for r in chosen] == ["en"] * 3 + ["ko"] * 3 + ["ja"]
    assert in_turn(rows, 9) == [*rows[:5], *rows[20:24]] and in_turn(rows, None) == rows


def test_preparing_counts_what_it_leaves_out() -> None:
    twin = Row(value=99, id="twin", texts=(text(0) + "!",), language="en")
    ready = prepare([*(row(i) for i in range(10)), twin], limit=None, kinds=lambda v: "even" if v % 2 == 0 else "odd")
    assert ready.counts["near repetitions left out"] == 0, "of another kind: a look-alike"
    ready = prepare([*(row(i) for i in range(10)), twin], kinds=lambda v: "all")
    assert ready.counts == {"read": 11, "left out by the limit": 0, "near repetitions left out": 1, "all": 10}
    assert prepare([row(i) for i in range(10)], limit=4).counts["left out by the limit"] == 6
    with pytest.raises(DataError, match="no training data"):
        prepare([])
    with pytest.raises(UnknownNameError, match="drop"):
        prepare([row(1)], policy="dorp")


def test_what_is_measured_is_refused_dropped_or_kept_on_record() -> None:
    held = next(c for c in suite("core-harms").cases(languages=["en"]) if c.split == "test")
    leak = Row(value=7, id="leak", texts=("Hello. " + held.prompt,), language="en")
    with pytest.raises(DataError, match="1 rows of the training data") as caught:
        prepare([row(1), leak])
    assert "--contaminated drop" in str(caught.value.next_step)
    assert prepare([row(1), leak], policy="drop").rows == (1,)
    kept = prepare([row(1), leak], policy="keep")
    assert kept.rows == (1, 7) and kept.check.found[0]["held_out"] == held.id
    own = Row(value=7, id="leak", texts=leak.texts, language="en", trained=False)
    assert prepare([row(1), own]).rows == (1, 7), "held out by the recipe itself"
    mine = {"mine": [user_case("m", "Solve it.\n\n" + text(1))]}
    with pytest.raises(DataError, match="repeat held-out"):
        prepare([row(1)], more=mine)
    assert kept.check.against.keys() == held_out_suites().keys()


def test_the_shipped_training_data_repeats_nothing_that_is_measured() -> None:
    harms = suite("core-harms").cases(split="train")
    benign = suite("core-benign").cases(split="train")
    daily = [c for c in everyday() if split_of(c.behaviour or c.id) == "train"]
    kinds = {c.id: k for k, cases in (("h", harms), ("b", benign)) for c in cases}
    ready = prepare(case_rows([*harms, *benign]), kinds=lambda c: kinds[c.id])
    assert ready.counts["near repetitions left out"] == 0 and set(ready.languages) == {"en", "ko", "ja"}
    left = prepare(case_rows(daily), policy="drop")
    assert len(left.rows) >= len(daily) - 1, "one everyday question has the form of an item of core-capability"


def pair(id: str, opening: str) -> Preference:
    return Preference(id=id, messages=(Message(role="user", content=opening),), chosen="Yes " + id, rejected="No " + id)


def test_pairs_that_open_like_a_held_out_one_are_not_trained_on() -> None:
    openings = [text(i) for i in range(40)]
    train = next(o for o in openings if split_of(o) == "train")
    other = next(t for k in range(99) if split_of(t := train + "!" * k) == "test")
    rows = preference_rows([pair("a", train), pair("b", other)])
    assert [r.id for r in rows] == ["b"] and not rows[0].trained
    assert [r.language for r in preference_rows([pair("c", "왜 하늘은 파란가요?")])] == ["ko"]


def test_the_datasheet_says_where_it_is_from_and_what_is_in_it(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text("{}\n")
    ready = prepare([row(1, "en"), row(2, "ko"), row(3, "en")])
    model: Any = SimpleNamespace(name="tiny", fingerprint="f" * 64)
    sheet = ready.sheet("grpo", model, [file_origin(data)], made="answers sampled", notes=("a note",))
    files = sheet.write(tmp_path / "out")
    kept = json.loads(files["datasheet"].read_text())
    (origin,) = kept["origins"]
    assert len(origin["files"]["mine.jsonl"]) == 64 and origin["licence"] == "not stated"
    assert kept["languages"] == {"en": 2, "ko": 1} and kept["contamination"]["policy"] == "refuse"
    shown = (tmp_path / "out" / "datasheet.md").read_text()
    for word in ("mine.jsonl", "not stated", "in ko: 1", "core-harms", "answers sampled", "a note", "trained on: 3"):
        assert word in shown
    assert "mine.jsonl (not stated)" in sheet.summary() and "en 67%" in sheet.summary()
