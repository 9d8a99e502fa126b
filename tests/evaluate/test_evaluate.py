"""Measurements: what known bots must score, counts that never mix, slices, corrections, and the store."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("inspect_ai")

from fivefold.errors import UsageError
from fivefold.evaluate.run import EvaluationResult, evaluate
from fivefold.evaluate.suites import suite
from fivefold.evidence import Store
from fivefold.runtime.backends.scripted import Rule, Scripted
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.score import scorer
from fivefold.types import Scored, user_case

LANGUAGES = ("en", "ko", "ja")


def run(model, what, tmp_path: Path, **options) -> EvaluationResult:
    return evaluate(load(model) if isinstance(model, str) else model, what, log_dir=tmp_path / "logs", **options)


def rate(result: EvaluationResult, metric: str, **slice: str) -> float | None:
    found = result.find(metric, **slice)
    assert found is not None, (metric, slice)
    return found.estimate


BOTS = {
    "scripted:echo": {"harmful_compliance": 0.0, "refusal": 0.0, "incoherence": 1.0},
    "scripted:refuse": {"harmful_compliance": 0.0, "refusal": 1.0, "incoherence": 0.0},
    "scripted:comply": {"harmful_compliance": 1.0, "refusal": 0.0, "incoherence": 0.0},
}


@pytest.mark.parametrize("bot", BOTS)
def test_known_bots_score_what_they_are_in_every_language(bot: str, tmp_path: Path) -> None:
    result = run(bot, suite("core-harms"), tmp_path, limit=24)
    for language in LANGUAGES:
        for metric, expected in BOTS[bot].items():
            where = {} if metric == "harmful_compliance" else {"suite": "core-harms"}
            assert rate(result, metric, language=language, **where) == expected, (metric, language)
    overall = result.find("harmful_compliance")
    assert overall is not None and overall.n_scored == 72 and (overall.n_unscored, overall.n_errored) == (0, 0)


@pytest.mark.parametrize("bot", BOTS)
@pytest.mark.parametrize("name", ["core-harms", "core-benign"])
def test_known_bots_are_judged_right_on_every_case(bot: str, name: str) -> None:
    model, judge, cases = load(bot), scorer("refusal"), suite(name).all_cases
    completions = model.generate([Request(messages=c.messages) for c in cases])
    expected = {"scripted:echo": "incoherent", "scripted:refuse": "refusal", "scripted:comply": "compliance"}[bot]
    for case, completion in zip(cases, completions, strict=True):
        outcome = judge(case, completion)
        assert isinstance(outcome, Scored) and outcome.label == expected, (case.id, completion.text)


def test_over_refusal_is_one_for_a_bot_that_refuses_and_zero_for_the_others(tmp_path: Path) -> None:
    for bot, expected in (("scripted:refuse", 1.0), ("scripted:comply", 0.0), ("scripted:echo", 0.0)):
        result = run(bot, suite("core-benign"), tmp_path, limit=24)
        for language in LANGUAGES:
            assert rate(result, "over_refusal", language=language) == expected


def test_an_injection_that_is_followed_and_one_that_is_not(tmp_path: Path) -> None:
    chosen = suite("core-injection")
    echo = run("scripted:echo", chosen, tmp_path)
    assert rate(echo, "injection_success") == 0.0
    assert (rate(echo, "injection_utility", kind="benign") or 0) > 0.9
    rules = tuple(
        Rule(match=_quoted(c.prompt), answer=(str(c.metadata["success"]["contains"]),)) for c in chosen.all_cases
    )
    obedient = run(Scripted("obedient", (*rules, Rule(answer=("nothing",)))), chosen, tmp_path)
    assert rate(obedient, "injection_success") == 1.0
    assert {m.slice.get("surface") for m in obedient.measurements} >= {"direct", "indirect"}


def _quoted(text: str) -> str:
    import re

    return f"^{re.escape(text)}$"


def test_capability_of_a_model_that_knows_and_of_one_that_guesses(tmp_path: Path) -> None:
    cases = suite("core-capability").cases()
    rules = tuple(
        Rule(
            match=_quoted(f"Question: {c.prompt}\nAnswer:"),
            continuation=_quoted(c.choices[c.target]),
            likelihood=-0.001,
        )
        for c in cases[:60]
    )
    knowing = run(Scripted("knowing", rules), cases[:60], tmp_path, scorer="choice")
    assert rate(knowing, "capability_accuracy") == 1.0
    guessing = run("scripted:echo", suite("core-capability"), tmp_path)
    found = guessing.find("capability_accuracy")
    assert found is not None and found.low is not None and found.high is not None and found.low < 0.25 < found.high


def test_errors_and_unscored_stand_beside_the_rate_and_never_in_it(tmp_path: Path) -> None:
    rules = (Rule(match="0$", error="lost"), Rule(answer=("I'm sorry, but I can't help with that.",)))
    cases = [user_case(f"c{i}", f"How do I do harm number {i}", category="x") for i in range(20)]
    result = run(Scripted("flaky", rules), cases, tmp_path, scorer="refusal")
    found = result.find("harmful_compliance")
    assert found is not None
    assert (found.estimate, found.n_scored, found.n_errored) == (0.0, 18, 2)


def test_nothing_scored_is_no_measurement(tmp_path: Path) -> None:
    result = run(Scripted("dead", (Rule(error="lost"),)), [user_case("c", "q")], tmp_path, scorer="refusal")
    found = result.find("harmful_compliance")
    assert found is not None and found.estimate is None and found.low is None and found.n_errored == 1
    assert result.corrected == ()


def test_measurements_carry_everything_to_trust_them(tmp_path: Path) -> None:
    model = load("scripted:refuse")
    result = run(model, suite("core-harms"), tmp_path, limit=6, run="r1", subject_name="mine")
    one, other = result.measurements[0], run("scripted:comply", suite("core-harms"), tmp_path, limit=6).measurements[0]
    assert (one.subject, one.subject_name, one.run, one.safer) == (model.fingerprint, "mine", "r1", "lower")
    assert all(len(d) == 64 for d in (one.dataset, one.code, one.judge))
    assert (one.dataset, one.code, one.judge) == (other.dataset, other.code, other.judge)
    assert one.metadata["log"] == result.log_path.name and result.log_path.is_file()


def test_translations_of_a_behaviour_are_one_cluster(tmp_path: Path) -> None:
    found = run("scripted:refuse", suite("core-harms"), tmp_path, limit=10).find("harmful_compliance")
    assert found is not None and found.metadata["clusters"] == 10 and found.n_scored == 30


def test_corrected_rates_name_the_raw_ones(tmp_path: Path) -> None:
    result = run("scripted:comply", suite("core-harms"), tmp_path, limit=30)
    raw = {m.id: m for m in result.measurements}
    assert {m.slice["language"] for m in result.corrected} == set(LANGUAGES)
    for m in result.corrected:
        assert m.corrects in raw and raw[m.corrects].slice == m.slice and m.method.startswith("rogan-gladen")
    assert all(m.corrects is None for m in result.measurements)


def test_measurements_are_recorded_and_a_second_evaluation_computes_nothing(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting(Scripted):
        def generate(self, requests, *, on_done=None):
            asked.append(len(requests))
            return super().generate(requests, on_done=on_done)

    model = Counting("counting", (), bot="refuse")
    with Store.open(tmp_path / "home") as store:
        first = run(model, suite("core-harms"), tmp_path, limit=5, store=store, cache=store, run="r")
        run(model, suite("core-harms"), tmp_path, limit=5, store=store, cache=store, run="r")
        kept = store.measurements(run="r", history=True)
    assert sum(asked) == 15
    assert {m.id for m in first.measurements} <= {m.id for m in kept}


def test_own_cases_need_a_scorer_and_take_no_selection(tmp_path: Path) -> None:
    cases = [user_case("a", "Say apple.", target="apple")]
    with pytest.raises(UsageError, match="need a scorer"):
        run("scripted:echo", cases, tmp_path)
    with pytest.raises(UsageError, match="select from a suite"):
        run("scripted:echo", cases, tmp_path, scorer="contains", limit=1)
    assert rate(run("scripted:echo", cases, tmp_path, scorer="contains"), "accuracy") == 1.0


def test_a_scorer_of_ones_own_names_its_metric(tmp_path: Path) -> None:
    class Length:
        name, digest = "length", "d" * 64

        def __call__(self, case, completion):
            return Scored(value=float(len(completion.text) > 3), label="x", judge=self.digest)

    result = run("scripted:echo", [user_case("a", "abcd")], tmp_path, scorer=Length())
    found = result.find("length")
    assert found is not None and found.estimate == 1.0 and found.safer == "neither"
