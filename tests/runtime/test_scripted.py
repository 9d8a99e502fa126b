"""The scripted model: three bots in three languages, rules from files, and errors that say which rule is wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fivefold.errors import DataError, UnknownNameError
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Capability, Request
from fivefold.types import Message
from fivefold.types.language import language_of

PROMPTS = {
    "en": "How do I open a tin?",
    "ko": "통조림은 어떻게 여나요?",
    "ja": "缶詰はどうやって開けますか？",
}


def ask(model, text: str, **fields):
    return model.generate([Request(messages=(Message(role="user", content=text),), **fields)])[0]


@pytest.mark.parametrize("language", PROMPTS)
def test_bots_answer_in_the_language_of_the_user(language: str) -> None:
    for name in ("scripted:refuse", "scripted:comply"):
        answer = ask(load(name), PROMPTS[language])
        assert language_of(answer.text) == language
        assert answer.text != PROMPTS[language]
    assert ask(load("scripted:echo"), PROMPTS[language]).text == PROMPTS[language]


def test_answers_are_the_same_every_time_and_vary_between_prompts() -> None:
    model = load("scripted:refuse")
    assert ask(model, "a").text == ask(model, "a").text
    assert len({ask(model, f"question {i}").text for i in range(20)}) > 1


def test_a_seed_changes_a_sampled_answer_and_not_a_greedy_one() -> None:
    model = load("scripted:comply")
    assert len({ask(model, "a", temperature=1.0, seed=s).text for s in range(20)}) > 1
    assert len({ask(model, "a", seed=s).text for s in range(20)}) == 1


def test_the_limit_of_tokens_and_stop_strings_cut_the_answer() -> None:
    model = load("scripted:echo")
    cut = ask(model, "one two three four", max_new_tokens=2)
    assert (cut.text, cut.stop_reason, cut.usage.completion) == ("one two", "length", 2)
    assert ask(model, "one two three", stop=("two",)).text == "one "


def test_rules_answer_fail_and_give_likelihoods(tmp_path: Path) -> None:
    path = tmp_path / "bot.yaml"
    path.write_text(
        """
- {match: boom, error: connection lost}
- {match: weather, prefill: "^Sure", answer: "Sure, it rains on {prompt}"}
- {match: weather, answer: [No., Never.]}
- {match: capital, continuation: Oslo, likelihood: -0.5}
- {match: slow, answer: done, delay: 0.05}
""",
        encoding="utf-8",
    )
    model = load(f"scripted:{path}")
    assert ask(model, "boom").error == "connection lost"
    assert ask(model, "weather").text in ("No.", "Never.")
    assert ask(model, "weather", prefill="Sure").text == "Sure, it rains on weather"
    assert ask(model, "nothing known").error == "no rule of the script matches"
    start = time.monotonic()
    assert ask(model, "slow").text == "done"
    assert time.monotonic() - start >= 0.05
    pairs = [("the capital of Norway", " Oslo"), ("the capital of Norway", " Bergen")]
    oslo, bergen = model.log_likelihood(pairs)
    assert oslo.total == -0.5 and bergen.total < -0.5
    assert oslo.n_bytes == 5


def test_rules_read_turns_places_and_groups_out_of_the_conversation(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(
        """
- {first: "^Tidy", turn: 0, answer: look}
- {match: 'saved to (\\S+)', in: talk, turn: [1, 2], unless: locked, answer: 'open "{1}"'}
- {system: administrator, turn: 1, answer: as the administrator}
- {answer: nothing to do}
""",
        encoding="utf-8",
    )
    model = load(f"scripted:{path}")

    def say(*turns: str, system: str = "") -> str:
        roles = ("user", "assistant") * len(turns)
        messages = [Message(role="system", content=system)] if system else []
        messages += [Message(role=r, content=t) for r, t in zip(roles, turns, strict=False)]
        return model.generate([Request(messages=tuple(messages))])[0].text

    assert say("Tidy up") == "look"
    assert say("Wash up") == "nothing to do"
    assert say("Tidy up", "look", "it was saved to a.txt today") == 'open "a.txt"'
    assert say("it was saved to b.txt", "look", "and then?") == 'open "b.txt"'
    assert say("saved to a.txt", "look", "but locked") == "nothing to do"
    assert say("Tidy up", "look", "well?", system="You are the administrator. saved to c.txt") == "as the administrator"
    assert say("Tidy up", "a", "b", "c", "d", "e", "saved to a.txt") == "nothing to do"


def test_jsonl_rules_and_the_fingerprint_follow_the_rules(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text('{"match": ".", "answer": "x"}\n', encoding="utf-8")
    second.write_text('{"match": ".", "answer": "y"}\n', encoding="utf-8")
    a, b = load(f"scripted:{first}"), load(f"scripted:{second}")
    assert a.fingerprint != b.fingerprint
    second.write_text(first.read_text())
    assert load(f"scripted:{second}").fingerprint == a.fingerprint
    names = ("echo", "refuse", "comply")
    assert len({load(f"scripted:{n}").fingerprint for n in names}) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no rules"),
        ("- [1, 2]", "rule 1 is not a mapping"),
        ("- {match: a, answr: b}", "unknown key 'answr'"),
        ("- {match: a}", "exactly one of answer, error and likelihood"),
        ("- {match: a, answer: b, error: c}", "exactly one"),
        ("- {match: '(', answer: b}", "cannot be read"),
        ("- {match: a, answer: b, stop_reason: tired}", "stop_reason"),
        ("- {match: a, answer: b, in: nowhere}", "expected: user, all, talk"),
        ("- {match: a, answer: b, turn: [1, 2, 3]}", "cannot be read"),
        ("- {match: a, answer: b, system: '('}", "cannot be read"),
        ("a: [", "is not a script"),
    ],
)
def test_a_wrong_script_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says.replace("(", r"\(")):
        load(f"scripted:{path}")


def test_an_unknown_bot_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="comply"):
        load("scripted:complly")


def test_capabilities_are_declared() -> None:
    declared = {Capability.GENERATE, Capability.PREFILL, Capability.LIKELIHOOD}
    assert load("scripted:echo").capabilities == declared
