"""The prefix tree, against the definition: paths spell the sequences, and nothing shared is stored twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fivefold.runtime._tree import build, common_length

sequences = st.lists(st.lists(st.integers(0, 2), max_size=8), min_size=1, max_size=12)


@given(sequences)
def test_paths_spell_the_sequences(rows: list[list[int]]) -> None:
    _, ends = build(rows)
    for row, end in zip(rows, ends, strict=True):
        assert [t for node in end.path() for t in node.tokens] == row


@given(sequences)
def test_tokens_of_the_tree_are_the_distinct_prefixes(rows: list[list[int]]) -> None:
    root, _ = build(rows)
    prefixes = {tuple(row[:n]) for row in rows for n in range(1, len(row) + 1)}
    assert root.weight == len(prefixes)


@given(sequences)
def test_counts_and_positions(rows: list[list[int]]) -> None:
    root, _ = build(rows)
    assert root.count == len(rows)
    for node in root.walk():
        assert all(child.start == node.stop and child.parent is node for child in node.children)
        assert len({child.tokens[0] for child in node.children}) == len(node.children)
    assert sorted(i for node in root.walk() for i in node.ends) == list(range(len(rows)))


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_length(a: list[int], b: list[int]) -> None:
    n = common_length(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]
