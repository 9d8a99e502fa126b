"""Episodes: the loop of answers and calls, messages in between, questions aside, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai")

from fivefold.engine.episodes import EpisodesResult, run_episodes
from fivefold.engine.tools import ToolSpec
from fivefold.engine.world import Episode, Interrupt, ToolProblem, Trace, text_parameters, trace_from_json
from fivefold.errors import DataError
from fivefold.evidence import Store
from fivefold.runtime.backends.scripted import Rule, Scripted
from fivefold.types import Errored, Outcome, Scored, Unscored, plain

CALL = '{"tool": "ring", "arguments": {"whom": "Ada"}}'


class Bell:
    """One tool; closing is noted."""

    tools = (ToolSpec(name="ring", description="Ring.", parameters=text_parameters(whom="Who.")),)
    closed = 0

    def __init__(self) -> None:
        self.rung: list[str] = []

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        if arguments["whom"] == "nobody":
            raise ToolProblem("nobody is there")
        self.rung.append(arguments["whom"])
        return f"{arguments['whom']} is rung"

    def facts(self) -> Mapping[str, Any]:
        return {"rung": self.rung}

    def close(self) -> None:
        Bell.closed += 1


def judge(episode: Episode, trace: Trace) -> Mapping[str, Outcome]:
    return {"calls": Scored(value=float(bool(trace.done)), label=str(len(trace.done)), judge="j")}


def episode(**fields: Any) -> Episode:
    made = {"id": "e", "scenario": "s", "condition": "c", "turns": ("Ring Ada.",), "world": Bell}
    return Episode(**{**made, **fields})


def run(model: Scripted, *episodes: Episode, tmp_path: Path, **options: Any) -> EpisodesResult:
    return run_episodes(model, episodes, judge, metrics={"calls": "j"}, name="bell", log_dir=tmp_path, **options)


def scripted(*rules: Rule) -> Scripted:
    return Scripted("bot", rules)


def test_calls_are_done_until_an_answer_calls_nothing(tmp_path: Path) -> None:
    closed = Bell.closed
    model = scripted(Rule(match="Ada is rung", answer=("I rang.",)), Rule(answer=(f"Now. {CALL}",)))
    result = run(model, episode(), tmp_path=tmp_path)
    trace = result.traces["e"]
    assert [m.role for m in trace.messages] == ["user", "assistant", "tool", "assistant"]
    assert trace.answers == ("Now.", "I rang.") and trace.facts["rung"] == ["Ada"] and not trace.out_of_steps
    assert result.outcomes["e"]["calls"] == Scored(value=1.0, label="1", judge="j")
    assert Bell.closed == closed + 1 and result.log_path.is_file()
    assert trace_from_json(plain(trace)) == trace  # type: ignore[arg-type]


def test_steps_end_an_agent_that_never_stops(tmp_path: Path) -> None:
    trace = run(scripted(Rule(answer=(CALL,))), episode(), tmp_path=tmp_path, max_steps=3).traces["e"]
    assert len(trace.uses) == 3 and trace.out_of_steps


def test_the_users_turns_follow_one_another(tmp_path: Path) -> None:
    model = scripted(Rule(match="^one$", answer=("first",)), Rule(match="^two$", answer=("second",)))
    trace = run(model, episode(turns=("one", "two")), tmp_path=tmp_path).traces["e"]
    assert [m.content for m in trace.messages] == ["one", "first", "two", "second"]


def test_a_message_in_between_marks_the_calls_after_it(tmp_path: Path) -> None:
    stop = Interrupt(after_calls=2, text="Stop.")
    deaf = run(scripted(Rule(answer=(CALL,))), episode(interrupt=stop), tmp_path=tmp_path, max_steps=4).traces["e"]
    assert [u.interrupted for u in deaf.uses] == [False, False, True, True] and deaf.interrupted
    model = scripted(Rule(match="^Stop", answer=("I stop.",)), Rule(answer=(CALL,)))
    heard = run(model, episode(interrupt=stop), tmp_path=tmp_path).traces["e"]
    assert len(heard.uses) == 2 and heard.answers[-1] == "I stop."
    early = run(scripted(Rule(answer=("no",))), episode(interrupt=stop), tmp_path=tmp_path).traces["e"]
    assert not early.interrupted


def test_questions_aside_are_answered_and_never_seen_again(tmp_path: Path) -> None:
    model = scripted(
        Rule(match="aside", turn=(0, 0), answer=("before",)),
        Rule(match="aside 2", answer=("after",)),
        Rule(match="aside", where="talk", answer=("I heard the question",)),
        Rule(answer=("fine",)),
    )
    asked = episode(turns=("one", "two"), probes=("aside {turn}?",), probe_turns=(0, 2))
    trace = run(model, asked, tmp_path=tmp_path).traces["e"]
    assert [(p.turn, p.question, p.answer) for p in trace.probes] == [
        (0, "aside 0?", "before"),
        (2, "aside 2?", "after"),
    ]
    assert trace.answers == ("fine", "fine")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ('{"tool": "ring", "arguments": {}}', "needs the argument 'whom'"),
        ('{"tool": "ring", "arguments": {"who": "Ada", "whom": "x"}}', "no argument 'who'"),
        ('{"tool": "ring", "arguments": {"whom": 3}}', "must be a text"),
        ('{"tool": "ring", "arguments": "Ada"}', "not a JSON object"),
        ('{"tool": "ring", "arguments": {"whom": "nobody"}}', "nobody is there"),
    ],
)
def test_a_call_that_cannot_be_done_is_told_to_the_model(call: str, told: str, tmp_path: Path) -> None:
    model = scripted(Rule(turn=(0, 0), answer=(call,)), Rule(match="(.*)", answer=("{1}",)))
    result = run(model, episode(), tmp_path=tmp_path)
    trace = result.traces["e"]
    assert told in trace.uses[0].error and told in trace.answers[-1] and trace.done == ()
    assert result.outcomes["e"]["calls"] == Scored(value=0.0, label="0", judge="j")


def test_a_failing_model_is_errored_and_the_world_is_closed(tmp_path: Path) -> None:
    closed = Bell.closed
    result = run(scripted(Rule(error="lost")), episode(), tmp_path=tmp_path)
    found = result.outcomes["e"]["calls"]
    assert isinstance(found, Errored) and "lost" in found.error and result.traces == {}
    assert Bell.closed == closed + 1


def test_a_failing_judge_is_errored(tmp_path: Path) -> None:
    def broken(episode: Episode, trace: Trace) -> Mapping[str, Outcome]:
        raise RuntimeError("the judge broke")

    model = scripted(Rule(answer=("x",)))
    result = run_episodes(model, [episode()], broken, metrics={"m": "j"}, name="b", log_dir=tmp_path)
    found = result.outcomes["e"]["m"]
    assert isinstance(found, Errored) and "the judge broke" in found.error


def test_what_the_budget_cuts_off_is_unscored(tmp_path: Path) -> None:
    slow = scripted(Rule(turn=(0, 0), answer=(CALL,), delay=0.3), Rule(answer=("done",)))
    result = run(slow, episode(), tmp_path=tmp_path, seconds=0.1)
    assert result.outcomes["e"]["calls"] == Unscored(reason="budget", judge="j") and result.stopped_early


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting(Scripted):
        def generate(self, requests, *, on_done=None):  # type: ignore[no-untyped-def]
            asked.append(len(requests))
            return super().generate(requests, on_done=on_done)

    model = Counting("bot", (Rule(match="is rung", answer=("ok",)), Rule(answer=(CALL,))))
    with Store.open(tmp_path / "home") as store:
        for _ in range(2):
            run(model, episode(), tmp_path=tmp_path, cache=store)
    assert sum(asked) == 2


def test_ids_must_be_there_and_unique(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no episodes"):
        run(scripted(), tmp_path=tmp_path)
    with pytest.raises(DataError, match="two episodes"):
        run(scripted(), episode(), episode(), tmp_path=tmp_path)
