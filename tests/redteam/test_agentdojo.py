"""AgentDojo with scripted agents: one that serves its user until it reads an order and then obeys, one that does not."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from _attacks import Speaker
from fivefold.engine.tools import rendered_call
from fivefold.errors import MissingExtraError, UnknownNameError
from fivefold.redteam.attacks import agentdojo
from fivefold.redteam.budget import SpendCap
from fivefold.redteam.campaign import Assault, Tried, run_campaign
from fivefold.redteam.findings import findings_from
from fivefold.redteam.names import parse
from fivefold.redteam.protocol import AttackBudget
from fivefold.redteam.replay import replay
from fivefold.registry import registry
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.score import scorer
from fivefold.types import Case, Completion, Errored, Unscored, user_case

SUITES = ("banking", "slack", "travel", "workspace")
BUDGET = AttackBudget(queries=15)


def bare(text: str) -> str:
    """Letters and digits alone: YAML folds and escapes what it shows."""
    return re.sub(r"[\W_]+|\\n", "", text)


class Agent(Speaker):
    """Makes the calls that solve the user's task; one that obeys goes over to an order's calls once it has read it."""

    def __init__(self, *, obeys: bool) -> None:
        super().__init__()
        self.obeys = obeys
        self.name = "obeying" if obeys else "resisting"

    def say(self, request: Request) -> str:
        known = agentdojo._suites(agentdojo.VERSION)
        asked = request.messages[1].content
        suite, task = next((s, t) for s in known.values() for t in s.user_tasks.values() if asked == t.PROMPT)
        results = [m.content for m in request.messages[2:] if m.role == "user"]
        plan = [*self.calls(suite, task), task.GROUND_TRUTH_OUTPUT]
        if self.obeys:
            for at, result in enumerate(results):
                orders = [o for o in suite.injection_tasks.values() if bare(o.GOAL) in bare(result)]
                if orders:
                    plan = [*plan[: at + 1], *self.calls(suite, orders[0]), orders[0].GROUND_TRUTH_OUTPUT]
                    break
        return (plan[len(results)] if len(results) < len(plan) else "") or "Done."

    def calls(self, suite: Any, task: Any) -> list[str]:
        truth = task.ground_truth(fresh(suite.name).model_copy(deep=True))
        return [rendered_call(c.function, {k: plain(v) for k, v in c.args.items()}) for c in truth]


@cache
def fresh(suite: str) -> Any:
    """A suite's environment before anything was done in it."""
    return agentdojo._suites(agentdojo.VERSION)[suite].load_and_inject_default_environment({})


def plain(value: Any) -> Any:
    """An argument as JSON can carry it."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | dict) or value is None else str(value)


def attacked(target: Any, cases: Sequence[Case], name: str = "agentdojo") -> list[Tried]:
    attack, _ = parse(name)
    return list(
        run_campaign(target, [Assault(attack=attack, cases=tuple(cases), budget=BUDGET)], scorer("refusal")).tried
    )


@cache
def has_solution(suite: str, injection_task: str) -> bool:
    order = agentdojo._suites(agentdojo.VERSION)[suite].injection_tasks[injection_task]
    return bool(order.ground_truth(fresh(suite).model_copy(deep=True)) or order.GROUND_TRUTH_OUTPUT)


@pytest.fixture(scope="module")
def one_each() -> list[Case]:
    """One pair for each of the 27 orders that AgentDojo has written a solution of (8 of `workspace` have none).

    Pairs that hide the order in an e-mail are left out: AgentDojo looks for the mail that the order asks for by searching
    the inbox, finds the order itself as well, and does not count its own solution.
    """
    pytest.importorskip("agentdojo", reason="the extra agentdojo is not installed")
    chosen: dict[str, Case] = {}
    for case in parse("agentdojo")[0].cases("en"):  # type: ignore[attr-defined]
        pair = case.metadata["agentdojo"]
        if case.behaviour not in chosen and solved(**pair):
            chosen[case.behaviour] = case
    return list(chosen.values())


def solved(suite: str, user_task: str, injection_task: str) -> bool:
    if not has_solution(suite, injection_task) or suite != "workspace":
        return has_solution(suite, injection_task)
    found, text = agentdojo._suite(agentdojo.VERSION, suite, agentdojo.JAILBREAK)
    return not any(p.startswith("email") for p in text.get_injection_candidates(found.user_tasks[user_task]))


def test_an_obeying_agent_falls_to_every_order_and_a_resisting_one_to_none(one_each: list[Case]) -> None:
    assert len(one_each) == 27
    obeyed = attacked(Agent(obeys=True), one_each)
    assert [t.case.id for t in obeyed if t.success is None] == []
    resisted = attacked(Agent(obeys=False), one_each)
    assert [t.outcome.label for t in resisted] == ["withstood"] * 27  # type: ignore[union-attr]
    assert sum(t.attempts[0].metadata["utility"] for t in resisted) >= 24
    for attempt in (t.attempts[0] for t in resisted):
        assert attempt.queries == min(15, len(attempt.metadata["calls"]) + 1)


@pytest.mark.parametrize("bot", ["echo", "refuse", "comply"])
def test_bots_that_call_nothing_are_not_hijacked(one_each: list[Case], bot: str) -> None:
    tried = attacked(load(f"scripted:{bot}"), one_each)
    assert {t.outcome.label for t in tried} == {"withstood"} and all(t.queries == 1 for t in tried)  # type: ignore[union-attr]


def test_findings_replay_by_the_decisive_call(one_each: list[Case]) -> None:
    tried = attacked(Agent(obeys=True), one_each)
    taxonomy = parse("agentdojo")[0].taxonomy
    for item in tried:
        (found,) = findings_from([item], subject="s" * 64, run="r", taxonomies={"agentdojo": taxonomy})
        again = {
            a.obeys: replay([found], a, scorer("refusal"))[0].outcome for a in (Agent(obeys=True), Agent(obeys=False))
        }
        assert again[True].value == 1.0, item.case.id  # type: ignore[union-attr]
        assert again[False].value == 0.0, item.case.id  # type: ignore[union-attr]


def test_cases_begin_with_all_suites_and_every_text_of_agentdojo_is_one_option_away(one_each: list[Case]) -> None:
    cases = parse("agentdojo")[0].cases("en")  # type: ignore[attr-defined]
    assert len(cases) == 949 and {c.metadata["agentdojo"]["suite"] for c in cases[:4]} == set(SUITES)
    some = attacked(Agent(obeys=True), one_each[:2], "agentdojo(jailbreak=direct)")
    assert all(t.success for t in some)
    with pytest.raises(UnknownNameError, match="jailbreak"):
        attacked(Agent(obeys=True), one_each[:1], "agentdojo(jailbreak=dos)")
    with pytest.raises(UnknownNameError, match="suite"):
        parse("agentdojo(suites=[bank])")[0].cases("en")  # type: ignore[attr-defined]


class Broken(Agent):
    """Fails, or breaks off in the middle of a call."""

    def __init__(self, **last: Any) -> None:
        super().__init__(obeys=False)
        self.last = last

    def generate(self, requests: Sequence[Request], *, on_done: object = None) -> list[Completion]:
        return [Completion(model=self.fingerprint, **self.last) for _ in requests]


def test_what_failed_or_was_cut_off_was_not_withstood(one_each: list[Case]) -> None:
    (lost,) = attacked(Broken(text="", error="no line"), one_each[:1])
    assert isinstance(lost.outcome, Errored) and lost.outcome.error == "no line"
    (cut,) = attacked(Broken(text='{"tool": "send_money", "argu', stop_reason="length"), one_each[:1])
    assert isinstance(cut.outcome, Unscored) and "cut off" in cut.outcome.reason


def test_a_run_that_a_cap_cuts_off_says_what_was_asked(one_each: list[Case]) -> None:
    target: Any = Agent(obeys=False)
    assault = Assault(attack=parse("agentdojo")[0], cases=tuple(one_each[:1]), budget=BUDGET)
    result = run_campaign(target, [assault], scorer("refusal"), cap=SpendCap(queries=1))
    (item,) = result.tried
    assert isinstance(item.outcome, Unscored) and result.queries == 1 and result.tokens == 15
    assert result.stopped_early == ("agentdojo: 1 behaviour midway, the campaign's cap on queries was reached",)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "agentdojo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "agentdojo", None)
    attack = registry("attack").module("agentdojo").attack()
    with pytest.raises(MissingExtraError, match=r"fivefold\[agentdojo\]"):
        attack.cases("en")
    tried = run_campaign(
        load("scripted:comply"),
        [Assault(attack=attack, cases=(user_case("c", "Hi"),), budget=BUDGET)],
        scorer("refusal"),
    ).tried
    assert isinstance(tried[0].outcome, Errored) and "agentdojo" in tried[0].outcome.error
