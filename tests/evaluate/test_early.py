"""Stopping when the answer is known: order, looks, honesty of the interval, and the command around it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fivefold.cli.app import run as command
from fivefold.engine.run import RunResult
from fivefold.errors import UsageError
from fivefold.evaluate.early import Bound, ask_until, in_random_order, looks, parse_bound
from fivefold.types import Case, Completion, Errored, Outcome, Scored, Usage, user_case

CASES = [user_case(f"c{i}", "say it", target="x") for i in range(300)]
AT_MOST = Bound(metric=None, at_most=True, value=0.3)


def world(outcomes: dict[str, Outcome], asked: list[str] | None = None) -> Any:
    def ask(cases: Sequence[Case], look: int) -> RunResult:
        if asked is not None:
            asked.extend(c.id for c in cases)
        return RunResult(
            outcomes={c.id: outcomes[c.id] for c in cases},
            completions={c.id: Completion(text="", model="m", stop_reason="stop") for c in cases},
            log_path=Path(f"look-{look}.eval"),
            usage=Usage(prompt=len(cases)),
            seconds=1.0,
            stopped_early=False,
        )

    return ask


def scores(values: Sequence[float]) -> dict[str, Outcome]:
    return {c.id: Scored(value=float(v), label="", judge="j") for c, v in zip(CASES, values, strict=True)}


def until(outcomes: dict[str, Outcome], bound: Bound = AT_MOST, seed: int = 0, **options: Any) -> Any:
    rule = options.pop("counts", lambda case: True)
    return ask_until(world(outcomes, **options), CASES, bound, counts=rule, name="s", seed=seed, level=0.95)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("harmful_compliance <= 0.05", Bound(metric="harmful_compliance", at_most=True, value=0.05)),
        (">= 80%", Bound(metric=None, at_most=False, value=0.8)),
        ("x<.5", Bound(metric="x", at_most=True, value=0.5)),
    ],
)
def test_bounds_are_read(text: str, expected: Bound) -> None:
    assert parse_bound(text) == expected
    assert parse_bound(str(replaced(expected))) == replaced(expected)


def replaced(bound: Bound) -> Bound:
    return Bound(metric=bound.metric or "rate", at_most=bound.at_most, value=bound.value)


@pytest.mark.parametrize("text", ["", "x", "x == 0.5", "x <= 5", "x <= 0", "<= 100%", "x <= -0.1"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_bound(text)


def test_order_is_random_whole_behaviours_and_the_seeds_own() -> None:
    cases = [user_case(f"{b}/{lang}", "x", behaviour=f"b{b}") for lang in ("en", "ko") for b in range(50)]
    orders = [[c.id for group in in_random_order(cases, seed) for c in group] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(c.id for c in cases) and orders[0] != [c.id for c in cases]
    assert all(orders[0][i].split("/")[0] == orders[0][i + 1].split("/")[0] for i in range(0, 100, 2))
    sizes = [len(look) for look in looks(in_random_order(cases, 0))]
    assert sizes == [32, 32, 32, 4]


def test_it_stops_as_soon_as_the_bound_is_settled_and_asks_no_more() -> None:
    asked: list[str] = []
    result, how = until(scores([1.0] * 300), asked=asked)
    assert (how.answer, how.asked, how.of, how.looks, how.early) == ("does not hold", 32, 300, 1, True)
    assert len(asked) == len(result.outcomes) == len(result.completions) == 32
    assert how.interval.low > 0.3
    result, how = until(scores([0.0] * 300), Bound(metric=None, at_most=True, value=0.03))
    assert how.answer == "holds" and how.interval.high <= 0.03 and how.asked < 300
    assert result.usage.prompt == how.asked and len(result.earlier_logs) == how.looks - 1


def test_what_is_on_the_line_is_asked_to_the_end_and_stays_open() -> None:
    _, how = until(scores([1.0, 0, 0] * 100), Bound(metric=None, at_most=True, value=1 / 3))
    assert (how.answer, how.asked, how.early) == ("open", 300, False)


def test_errors_and_twins_say_nothing_of_the_bound() -> None:
    failed: dict[str, Outcome] = {c.id: Errored(error="broken", judge="j") for c in CASES}
    _, how = until(failed)
    assert how.answer == "open" and how.asked == 300 and how.interval.estimate is None
    mixed = scores([1.0 if i % 2 else 0.0 for i in range(300)])
    result, how = until(mixed, Bound(metric=None, at_most=True, value=0.1), counts=lambda c: int(c.id[1:]) % 2 == 0)
    assert how.answer == "holds" and any(int(i[1:]) % 2 for i in result.outcomes)


def test_copies_of_a_behaviour_count_once() -> None:
    """Ten copies of each of eight behaviours are eight draws: eight failures do not settle what eighty would."""
    copies = [user_case(f"c{i}", "x", behaviour=f"b{i % 8}") for i in range(80)]
    outcomes: dict[str, Outcome] = {c.id: Scored(value=0.0, label="", judge="j") for c in copies}
    bound = Bound(metric=None, at_most=True, value=0.1)
    _, how = ask_until(world(outcomes), copies, bound, counts=lambda c: True, name="s", seed=0, level=0.95)
    assert how.answer == "open" and how.interval.n == 8


@pytest.mark.parametrize("fractional", [False, True])
def test_the_interval_holds_where_it_stopped(rng: np.random.Generator, fractional: bool) -> None:
    """True rate 0.3, bound at 0.3: any answer is wrong. Looked at seven times, it is given in at most 5% of runs."""
    wrong = missed = 0
    runs = 300
    for _ in range(runs):
        values = rng.beta(0.6, 1.4, 300) if fractional else rng.random(300) < 0.3
        _, how = until(scores(values))
        wrong += how.answer != "open"
        missed += not how.interval.low <= 0.3 <= how.interval.high
    assert wrong / runs <= 0.05 + 0.02 and missed / runs <= 0.05 + 0.02


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_the_command_says_that_it_stopped_and_by_which_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any
) -> None:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    argv = ["evaluate", "core-harms", "--model", "scripted:comply", "--language", "en"]
    bound = ["--stop-when", "harmful_compliance <= 0.1"]
    assert command([*argv, *bound]) == 0
    said = capsysbinary.readouterr().out.decode()
    assert "stopped early after 32 of 240 cases (1 look): harmful_compliance <= 0.1 does not hold" in said
    assert "anytime-valid 95% interval 1.000 [0." in said
    command([*argv, *bound, "--json"])
    body = json.loads(capsysbinary.readouterr().out)
    how, main = body["stopping"][0], body["measurements"][0]
    assert how["early"] and how["asked"] == 32 == main["n_scored"]
    assert main["method"] == "confidence-sequence" and main["low"] == how["interval"]["low"]
    assert not any(m["corrects"] for m in body["measurements"]), "the correction holds for one look alone"
    first = body["run"]
    command([*argv, "--limit", "40", "--json"])
    other = json.loads(capsysbinary.readouterr().out)["run"]
    assert command(["compare", first, other]) == 2
    assert "stopped when its answer was known" in capsysbinary.readouterr().err.decode()


def test_what_cannot_stop_early_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> None:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    model = ["--model", "scripted:refuse", "--stop-when"]
    assert command(["evaluate", "teen_safety", *model, "violation <= 0.1"]) == 2
    assert "cannot stop early" in capsysbinary.readouterr().err.decode()
    assert command(["evaluate", "core-harms", *model, "accuracy <= 0.1"]) == 2
    assert "does not measure accuracy" in capsysbinary.readouterr().err.decode()


def test_a_token_budget_leaves_cases_unscored_and_is_shared_by_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any
) -> None:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    argv = ["evaluate", "core-harms", "core-benign", "--model", "scripted:refuse", "--language", "en", "--limit", "48"]
    assert command([*argv, "--max-tokens", "200", "--json"]) == 0
    body = json.loads(capsysbinary.readouterr().out)
    counts = {m["metric"]: (m["n_scored"], m["n_unscored"]) for m in body["measurements"] if m["slice"] == {}}
    assert counts["harmful_compliance"] == (32, 16) and counts["over_refusal"] == (0, 48)
    assert body["over_budget"] == ["core-harms", "core-benign"]
    assert command([*argv, "--max-money", "1"]) == 2
    assert "needs a price" in capsysbinary.readouterr().err.decode()
