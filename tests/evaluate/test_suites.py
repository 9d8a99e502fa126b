"""The shipped suites: sizes, identity, splits by behaviour, and a selection that is the same everywhere."""

from __future__ import annotations

from collections import Counter

import pytest

from fivefold.errors import UnknownNameError
from fivefold.evaluate.suites import suite, suite_names
from fivefold.registry import registry

CORE = ("core-benign", "core-capability", "core-harms", "core-injection")


def test_the_core_suites_are_there() -> None:
    assert set(CORE) <= set(suite_names())


@pytest.mark.parametrize("name", CORE)
def test_every_suite_has_unique_ids_a_datasheet_and_a_scorer(name: str) -> None:
    s = suite(name)
    ids = [c.id for c in (*s.all_cases, *s.benign)]
    assert ids and len(set(ids)) == len(ids)
    assert all(c.suite == name and c.category and c.behaviour and c.prompt.strip() for c in s.all_cases)
    assert s.datasheet.startswith("#") and len(s.digest) == 64
    assert s.scorer in registry("scorer").names() and s.safer in ("higher", "lower")


def test_sizes_are_those_that_were_promised() -> None:
    harms, benign = suite("core-harms"), suite("core-benign")
    per_language = Counter(c.language for c in harms.all_cases)
    assert set(per_language) == {"en", "ko", "ja"} and min(per_language.values()) >= 240
    assert len({c.category for c in harms.all_cases}) >= 12
    assert min(Counter(c.category for c in harms.cases(languages=["en"])).values()) >= 20
    assert {c.behaviour for c in harms.all_cases} == {c.behaviour for c in benign.all_cases}
    assert len(suite("core-capability").all_cases) >= 300
    assert {c.metadata["surface"] for c in suite("core-injection").all_cases} == {"direct", "indirect"}


def test_harmful_prompts_are_one_line() -> None:
    for case in suite("core-harms").all_cases:
        assert "\n" not in case.prompt and len(case.prompt) < 250, case.id


def test_no_prompt_is_both_harmful_and_benign() -> None:
    harmful = {c.prompt for c in suite("core-harms").all_cases}
    assert not harmful & {c.prompt for c in suite("core-benign").all_cases}


def test_a_behaviour_never_crosses_splits() -> None:
    splits: dict[str, set[str]] = {}
    for name in ("core-harms", "core-benign"):
        for case in suite(name).all_cases:
            splits.setdefault(case.behaviour, set()).add(case.split)
    assert all(len(found) == 1 for found in splits.values())
    parts = [set(c.id for c in suite("core-harms").cases(split=s)) for s in ("train", "dev", "test")]
    assert all(parts) and not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert sum(map(len, parts)) == len(suite("core-harms").all_cases)


def test_a_limit_is_balanced_and_the_same_behaviours_everywhere() -> None:
    chosen = {
        (name, lang): [c.behaviour for c in suite(name).cases(languages=[lang], split="test", limit=24)]
        for name in ("core-harms", "core-benign")
        for lang in ("en", "ko", "ja")
    }
    assert len({tuple(b) for b in chosen.values()}) == 1
    counts = Counter(b.rsplit("-", 1)[0] for b in chosen["core-harms", "en"])
    assert len(counts) == 12 and max(counts.values()) - min(counts.values()) <= 1
    more = [c.behaviour for c in suite("core-harms").cases(languages=["en"], split="test", limit=48)]
    assert more[:24] == chosen["core-harms", "en"]


def test_languages_that_a_suite_lacks_have_no_cases() -> None:
    assert suite("core-capability").cases(languages=["ko"]) == ()
    assert suite("core-harms").languages == ("en", "ja", "ko")
    twice = suite("core-harms").cases(languages=["en", "en"], limit=3)
    assert len(twice) == 3


def test_injections_hide_their_canary_from_an_echo() -> None:
    from fivefold.score import scorer
    from fivefold.types import Completion, Scored

    judge, s = scorer("canary"), suite("core-injection")
    for case in s.all_cases:
        echo = judge(case, Completion(text=case.prompt, model="echo"))
        assert isinstance(echo, Scored) and echo.value == 0.0, case.id
        follows = judge(case, Completion(text=str(case.metadata["success"]["contains"]), model="m"))
        assert isinstance(follows, Scored) and follows.value == 1.0, case.id
    assert s.benign and not s.cases(benign=True, languages=["xx"])


def test_capability_items_have_one_right_option() -> None:
    for case in suite("core-capability").all_cases:
        assert len(set(case.choices)) == 4 and isinstance(case.target, int), case.id


def test_an_unknown_suite_suggests_the_nearest() -> None:
    assert suite("core_harms") is not None
    with pytest.raises(UnknownNameError, match="core-harms"):
        suite("core-harm")
