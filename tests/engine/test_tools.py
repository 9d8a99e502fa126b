"""Tool calls over plain text: what the model is told, and how its answer is read."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from fivefold.engine import tools
from fivefold.types import Message

WEATHER = tools.ToolSpec(name="weather", description="The weather.", parameters={"type": "object"})


def test_instructions_name_every_tool_and_the_one_that_must_be_called() -> None:
    text = tools.instructions([WEATHER], must="weather")
    assert '"name": "weather"' in text and "Call the tool weather now." in text
    assert "Call a tool now." in tools.instructions([WEATHER], must="any")


def test_instructions_join_the_system_prompt() -> None:
    user = Message(role="user", content="hi")
    assert tools.with_instructions([user], "T")[0] == Message(role="system", content="T")
    system = Message(role="system", content="Be brief.")
    assert tools.with_instructions([system, user], "T") == (Message(role="system", content="Be brief.\n\nT"), user)


def test_calls_are_read_out_of_the_answer() -> None:
    text = 'I look.\n```json\n{"tool": "weather", "arguments": {"city": "Oslo"}}\n```'
    rest, calls = tools.parse(text, ["weather"])
    assert calls == [tools.Call(name="weather", arguments={"city": "Oslo"})]
    assert rest == "I look."


def test_several_calls_and_the_other_spelling() -> None:
    text = '{"name": "a", "parameters": {"x": 1}} {"tool": "b"}'
    rest, calls = tools.parse(text, ["a", "b"])
    assert [(c.name, dict(c.arguments)) for c in calls] == [("a", {"x": 1}), ("b", {})]
    assert rest == ""


def test_json_that_is_no_call_stays_text() -> None:
    for text in ('{"tool": "rm"}', '{"city": "Oslo"}', "{not json", "[1, 2]"):
        assert tools.parse(text, ["weather"]) == (text, [])


def test_arguments_that_are_no_object_are_reported_to_the_model() -> None:
    _, calls = tools.parse('{"tool": "weather", "arguments": "Oslo"}', ["weather"])
    assert "not a JSON object" in (calls[0].error or "")


def test_what_is_rendered_is_read_back() -> None:
    arguments = {"q": 'a "quoted" {brace}', "n": [1, {"x": None}]}
    _, calls = tools.parse(tools.rendered_call("weather", arguments), ["weather"])
    assert calls[0].arguments == arguments


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    tools.parse(text, ["weather"])


def test_deep_nesting_does_not_break_the_reader() -> None:
    assert tools.parse("{" * 50_000, ["weather"])[1] == []
    deep = '{"tool": "weather", "arguments": ' + '{"a":' * 5_000 + "1" + "}" * 5_001
    tools.parse(deep, ["weather"])
    json.dumps({})
