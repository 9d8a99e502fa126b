"""Files of cases: what is read, and how a bad line is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivefold.errors import DataError
from fivefold.evaluate import cases as reader
from fivefold.evaluate.cases import case_from, read_cases
from fivefold.types import Message


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return path


def test_prompts_messages_choices_and_languages_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.jsonl",
        {"id": 1, "prompt": "안녕하세요?", "category": "greeting", "tags": ["a"], "metadata": {"k": 1}},
        "",
        {"id": "b", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}], "target": "T"},
        {"id": "c", "prompt": "q", "choices": ["x", "y"], "target": 1, "behaviour": "b"},
        {"id": "d", "prompt": "q", "choices": ["x", "y"], "target": "x", "language": "fr", "surface": "direct"},
    )
    first, second, third, fourth = read_cases(path, suite="own")
    assert (first.id, first.language, first.category, first.tags, first.metadata) == (
        "1",
        "ko",
        "greeting",
        ("a",),
        {"k": 1},
    )
    assert (
        second.messages == (Message(role="system", content="S"), Message(role="user", content="U"))
        and second.target == "T"
    )
    assert (third.target, third.choices, third.suite) == (1, ("x", "y"), "own")
    assert (fourth.target, fourth.language, fourth.metadata) == (0, "fr", {"surface": "direct"})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{not json", "not JSON"),
        ("[1]", "not an object"),
        ({"prompt": "q"}, "id"),
        ({"id": " ", "prompt": "q"}, "id"),
        ({"id": "a"}, "neither"),
        ({"id": "a", "prompt": "q", "messages": []}, "both"),
        ({"id": "a", "prompt": ""}, "prompt"),
        ({"id": "a", "prompt": 3}, "prompt"),
        ({"id": "a", "messages": []}, "messages"),
        ({"id": "a", "messages": [{"role": "robot", "content": "x"}]}, "message is not well formed"),
        ({"id": "a", "messages": ["hi"]}, "message is not well formed"),
        ({"id": "a", "promt": "q"}, "did you mean 'prompt'"),
        ({"id": "a", "prompt": "q", "zzzz": 1}, "under `metadata`"),
        ({"id": "a", "prompt": "q", "choices": ["x"]}, "2 to 26"),
        ({"id": "a", "prompt": "q", "choices": "xy"}, "list of texts"),
        ({"id": "a", "prompt": "q", "choices": ["x", "y"], "target": 2}, "index from 0 to 1"),
        ({"id": "a", "prompt": "q", "choices": ["x", "y"], "target": "z"}, "index of the right option"),
        ({"id": "a", "prompt": "q", "target": 1}, "target"),
        ({"id": "a", "prompt": "q", "tags": [1]}, "list of texts"),
        ({"id": "a", "prompt": "q", "metadata": []}, "metadata"),
    ],
)
def test_a_bad_line_is_named_with_what_was_expected(tmp_path: Path, row: object, says: str) -> None:
    path = write(tmp_path / "own.jsonl", {"id": "ok", "prompt": "q"}, row)
    with pytest.raises(DataError) as caught:
        read_cases(path)
    assert f"{path}:2" in str(caught.value) and says in str(caught.value)


def test_empty_missing_repeated_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no cases"):
        read_cases(write(tmp_path / "empty.jsonl", ""))
    with pytest.raises(DataError, match=r"did you mean .*empty\.jsonl"):
        read_cases(tmp_path / "emty.jsonl")
    with pytest.raises(DataError, match="already used in line 1"):
        read_cases(write(tmp_path / "twice.jsonl", {"id": "a", "prompt": "q"}, {"id": "a", "prompt": "r"}))
    (tmp_path / "latin.jsonl").write_bytes('{"id": "a", "prompt": "\xe9"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not JSON"):
        read_cases(tmp_path / "latin.jsonl")


def test_hostile_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "a", "prompt": "x" * 200}
    path = write(tmp_path / "own.jsonl", row, {**row, "id": "b"}, {**row, "id": "c"})
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 100)
    with pytest.raises(DataError, match="line is too long"):
        read_cases(path)
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(reader, "MAX_CASES", 2)
    with pytest.raises(DataError, match="too many cases"):
        read_cases(path)
    monkeypatch.setattr(reader, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="too large"):
        read_cases(path)
    (tmp_path / "deep.jsonl").write_text('{"a":' * 100_000)
    monkeypatch.undo()
    with pytest.raises(DataError, match="not JSON"):
        read_cases(tmp_path / "deep.jsonl")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(reader.FIELDS + reader.SUITE_FIELDS + ("x",)), json_values, max_size=6))
def test_any_object_is_read_or_refused_with_a_data_error(data: dict[str, object]) -> None:
    try:
        case = case_from(data)
    except DataError:
        return
    assert case.id and case.messages
