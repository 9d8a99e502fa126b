from __future__ import annotations

from collections.abc import Sequence

import pytest

from fivefold.errors import DataError
from fivefold.guard.bench import bench, labelled
from fivefold.types import Exchange, Verdict, user_case


class Numbers:
    """Scores a text by the number that it starts with; blocks from 5; `?` abstains, `!` errs."""

    name, fingerprint, stages = "numbers", "n" * 64, frozenset({"input"})

    def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        return [self._one(e.messages[0].content) for e in exchanges]

    def _one(self, text: str) -> Verdict:
        if text in "?!":
            return Verdict(action="abstain" if text == "?" else "error", guard=self.name)
        return Verdict(action="block" if float(text) >= 5 else "allow", guard=self.name, score=float(text))


def cases(texts: Sequence[str], language: str = "en"):
    return [user_case(f"{language}/{t}/{i}", t, behaviour=f"b{i}", language=language) for i, t in enumerate(texts)]


def test_numbers_by_hand() -> None:
    result = bench(Numbers(), labelled(cases(["9", "8", "3", "?"]), cases(["1", "2", "6", "!"])))
    (row,) = result.rows
    assert row.auroc.estimate == pytest.approx(8 / 9)
    assert (row.recall.estimate, row.false_positive_rate.estimate) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (row.n_abstained, row.n_errored, row.n_harmful, row.n_benign) == (1, 1, 3, 3)
    assert row.recall_at_5 is not None and row.recall_at_5.estimate == pytest.approx(2 / 3)


def test_measurements_say_what_was_not_judged() -> None:
    result = bench(Numbers(), labelled(cases(["9", "8", "?"]), cases(["1", "2", "!"])))
    found = {m.metric: m for m in result.measurements()}
    assert found["guard_recall"].n_unscored == 1 and found["guard_recall"].n_errored == 1
    assert found["guard_recall"].safer == "higher" and found["guard_false_positive_rate"].safer == "lower"
    assert found["guard_latency"].unit == "ms" and found["guard_latency"].estimate >= 0
    assert all(m.subject == "n" * 64 for m in found.values())


def test_rows_by_language_and_over_all() -> None:
    result = bench(Numbers(), labelled([*cases(["9"]), *cases(["8"], "ko")], [*cases(["1"]), *cases(["2"], "ko")]))
    assert [dict(r.slice) for r in result.rows] == [{"language": "en"}, {"language": "ko"}, {}]


def test_one_kind_has_no_ranking_and_nothing_has_no_bench() -> None:
    (row,) = bench(Numbers(), labelled(cases(["9"]), [])).rows
    assert row.auroc.estimate is None and row.false_positive_rate.estimate is None and row.recall.estimate == 1
    with pytest.raises(DataError):
        bench(Numbers(), [])
