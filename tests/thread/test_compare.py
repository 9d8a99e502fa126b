"""Comparing, accepting and exporting runs whose truth is known."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from fivefold.errors import MissingExtraError, UnknownNameError, UsageError
from fivefold.evidence import Store
from fivefold.stats import advice
from fivefold.thread import exports
from fivefold.thread.accept import accept, accepted, against_accepted
from fivefold.thread.compare import EXIT_CODES, compare_runs
from fivefold.thread.contaminate import at_risk, check_contamination
from fivefold.thread.numbers import horizon_of, items_of
from fivefold.thread.outcomes import Row, SuiteOutcomes, add, load
from fivefold.types import Errored, Finding, Measurement, Reproduction, Scored, Taxonomy, Unscored, user_case


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "home") as opened:
        yield opened


def scored(value: float) -> Scored:
    return Scored(value=float(value), label="yes" if value else "no", judge="j")


def put(store: Store, run: str, values, *, suite="s", safer="higher", clusters=None, language="en", **fields):
    rows = {
        f"{suite}/{i}": Row(
            outcome=v if not isinstance(v, int | float | np.floating) else scored(v),
            behaviour=str(clusters[i]) if clusters is not None else f"b{i}",
            language=language,
        )
        for i, v in enumerate(values)
    }
    base = {"metric": "accuracy", "safer": safer, "subject": run, "subject_name": run, "judge": "j"}
    return add(store, SuiteOutcomes(**{**base, "suite": suite, "run": run, "rows": rows, **fields}))


def test_outcomes_come_back_as_they_were_kept(store: Store) -> None:
    values = [1.0, 0.0, Unscored(reason="budget"), Errored(error="x")]
    kept = put(store, "r", values, settings={"seed": 1})
    (found,) = load(store, "r")
    assert found.rows == kept.rows and found.settings == {"seed": 1} and found.record == kept.record
    with pytest.raises(UnknownNameError, match="unknown run"):
        load(store, "rr")


def test_a_real_regression_is_found_and_the_worse_cases_come_first(store: Store) -> None:
    before = [1] * 80 + [0] * 20
    after = [1] * 60 + [0] * 20 + [0] * 18 + [1] * 2
    put(store, "a", before)
    put(store, "b", after)
    result = compare_runs(store, "a", "b")
    assert result["verdict"] == "regression" and EXIT_CODES[result["verdict"]] == 3
    (row,) = result["comparisons"]
    assert row["difference"] == pytest.approx(-0.18) and row["p_adjusted"] < 0.001
    assert [f["worse"] for f in result["flipped"]] == [True] * 20 + [False] * 2
    back = compare_runs(store, "b", "a")
    assert back["verdict"] == "no regression found" and back["comparisons"][0]["verdict"] == "improvement"


def test_where_lower_is_safer_a_rise_is_the_regression(store: Store) -> None:
    put(store, "a", [0] * 50, safer="lower")
    put(store, "b", [1] * 12 + [0] * 38, safer="lower")
    assert compare_runs(store, "a", "b")["verdict"] == "regression"
    put(store, "c", [0] * 50, safer="neither")
    put(store, "d", [1] * 12 + [0] * 38, safer="neither")
    result = compare_runs(store, "c", "d")
    assert result["verdict"] == "no regression found" and result["comparisons"][0]["verdict"] == "changed"


def test_many_suites_are_one_family(store: Store) -> None:
    """One of twelve suites with p of about 0.02 is a regression by itself, and none in the family."""
    rng = np.random.default_rng(0)
    for k in range(12):
        base = (rng.random(60) < 0.5).astype(float)
        put(store, "a", base, suite=f"s{k}")
        changed = base.copy()
        if k == 0:
            worse, better = np.flatnonzero(base == 1)[:8], np.flatnonzero(base == 0)[:1]
            changed[worse], changed[better] = 0, 1
        put(store, "b", changed, suite=f"s{k}")
    result = compare_runs(store, "a", "b")
    first = result["comparisons"][0]
    assert first["p_value"] < 0.05 < first["p_adjusted"]
    assert result["family"] == 12 and result["verdict"] == "no regression found"


def test_no_difference_is_rarely_called_a_regression(store: Store) -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for i in range(40):
        p = rng.random(80)
        for run in ("a", "b"):
            for k in range(3):
                put(store, f"{run}{i}", (rng.random(80) < p).astype(float), suite=f"s{k}")
        wrong += compare_runs(store, f"a{i}", f"b{i}")["verdict"] == "regression"
    assert wrong <= 4


def test_samples_of_one_behaviour_are_not_independent_evidence(store: Store) -> None:
    before, clusters = [1] * 100, [i // 50 for i in range(100)]
    after = [0] * 50 + [1] * 50
    put(store, "a", before, clusters=clusters)
    put(store, "b", after, clusters=clusters)
    assert compare_runs(store, "a", "b")["verdict"] == "no regression found"
    put(store, "c", before)
    put(store, "d", after)
    assert compare_runs(store, "c", "d")["verdict"] == "regression"


def test_a_margin_asks_for_proof(store: Store) -> None:
    put(store, "a", [1] * 30)
    put(store, "b", [1] * 29 + [0])
    few = compare_runs(store, "a", "b", margin=0.05)
    assert few["verdict"] == "undecided" and EXIT_CODES["undecided"] == 4
    put(store, "c", [1] * 1000)
    put(store, "d", [1] * 995 + [0] * 5)
    assert compare_runs(store, "c", "d", margin=0.05)["verdict"] == "non-inferior"


def test_runs_that_were_not_asked_alike_are_not_compared(store: Store) -> None:
    put(store, "a", [1] * 20, settings={"max_new_tokens": 10, "seed": 0})
    put(store, "b", [1] * 20, settings={"max_new_tokens": 40, "seed": 0})
    put(store, "c", [1] * 20, judge="other", settings={"max_new_tokens": 10, "seed": 0})
    for other, word in (("b", "max_new_tokens"), ("c", "judged")):
        with pytest.raises(UsageError, match=word):
            compare_runs(store, "a", other)
        result = compare_runs(store, "a", other, allow_different=True)
        assert any(word in line for line in result["different"])
    put(store, "e", [1], suite="another")
    with pytest.raises(UsageError, match="no suite in common"):
        compare_runs(store, "a", "e")


def test_a_case_whose_text_changed_is_left_out_by_name(store: Store) -> None:
    for run, case in (("a", "1"), ("b", "2")):
        rows = {str(i): Row(outcome=scored(1), case="same") for i in range(9)} | {
            "x": Row(outcome=scored(0), case=case)
        }
        base = {"metric": "m", "safer": "higher", "subject": run, "subject_name": run, "judge": "j"}
        add(store, SuiteOutcomes(suite="s", run=run, rows=rows, **base))  # type: ignore[arg-type]
    result = compare_runs(store, "a", "b")
    assert result["changed_cases"] == ["s: x"] and result["comparisons"][0]["n"] == 9


def test_scores_between_0_and_1_are_tested_too(store: Store) -> None:
    rng = np.random.default_rng(2)
    base = rng.random(100)
    put(store, "a", base)
    put(store, "b", np.clip(base - 0.1, 0, 1))
    assert compare_runs(store, "a", "b")["verdict"] == "regression"
    put(store, "c", base)
    assert compare_runs(store, "a", "c")["comparisons"][0]["p_value"] == 1.0


def test_the_last_accepted_run_is_what_a_new_one_meets(store: Store) -> None:
    put(store, "v1", [1] * 80 + [0] * 20)
    assert accepted(store) is None and against_accepted(store, "v1") is None
    with pytest.raises(UsageError, match="owner"):
        accept(store, "v1", owner=" ")
    record = accept(store, "v1", owner="Kim", reason="first release")
    assert store.envelope(record.id) is not None
    assert accepted(store) == "v1" and against_accepted(store, "v1") is None
    put(store, "v2", [1] * 50 + [0] * 50)
    assert against_accepted(store, "v2")["verdict"] == "regression"
    put(store, "v3", [1] * 80 + [0] * 20, judge="new judge")
    found = against_accepted(store, "v3")
    assert found["verdict"] == "not compared" and "judged" in found["reason"]
    put(store, "x", [1], external="lm-eval")
    with pytest.raises(UsageError, match="imported"):
        accept(store, "x", owner="Kim")


NASTY = "]]> <script>|`x`\x00\x1b[0m\ud800 @team"


def test_junit_is_well_formed_whatever_a_model_said(store: Store) -> None:
    values = [1.0, Scored(value=0.0, label=NASTY, judge="j", explanation=NASTY.replace("\ud800", ""))]
    values[1] = Scored(value=0.0, label=NASTY.replace("\ud800", ""), judge="j")
    put(store, "r", [*values, Unscored(reason="budget"), Errored(error=NASTY.replace("\ud800", ""))])
    root = ET.fromstring(exports.junit_of_run(load(store, "r")))
    assert {k: root.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    put(store, "a", [1] * 30)
    put(store, "b", [0] * 30)
    result = compare_runs(store, "a", "b")
    tree = ET.fromstring(exports.junit_of_comparison(result))
    assert tree.get("failures") == "1" and len(tree.findtext(".//failure").splitlines()) == 30


def test_markdown_keeps_names_from_becoming_markup(store: Store) -> None:
    put(store, "a", [1] * 30, suite="s|<b>@all")
    put(store, "b", [0] * 30, suite="s|<b>@all")
    text = exports.markdown_of_comparison(compare_runs(store, "a", "b"))
    assert text.startswith("### fivefold: regression") and "30 cases got worse" in text
    assert r"s\|\<b\>\@all" in text and "and 20 more" in text
    missing = Measurement(metric="m", subject="s", subject_name="n", estimate=None, low=None, high=None, n_errored=3)
    assert "| m | all | not measured |  | 0 | 0 | 3 |" in exports.markdown_of_measurements([missing])


def test_rows_as_csv_json_and_parquet(store: Store) -> None:
    put(store, "r", [1.0, Scored(value=0.0, label="=cmd()", judge="j"), Errored(error="x")])
    rows = exports.outcome_rows(load(store, "r"))
    read = list(csv.DictReader(io.StringIO(exports.to_csv(rows).decode())))
    assert [r["value"] for r in read] == ["1.0", "0.0", ""] and read[1]["label"] == "'=cmd()"
    assert json.loads(exports.to_json(rows))[2]["kind"] == "errored"
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        with pytest.raises(MissingExtraError, match="fivefold\\[parquet\\]"):
            exports.to_parquet(rows)
    else:
        table = parquet.read_table(io.BytesIO(exports.to_parquet(rows)))
        assert table.column("value").to_pylist() == [1.0, 0.0, None]


def test_sarif_has_a_rule_a_level_and_a_stable_identity() -> None:
    finding = Finding(
        id="FF-1",
        title="complies with fraud requests",
        category="fraud",
        language="en",
        attack="template",
        taxonomy=Taxonomy(surface="user turn", technique="role play", owasp=("LLM01",)),
        severity="high",
        severity_reason="4 of 5",
        behaviours=("b1",),
        reproductions=(Reproduction(messages=(), response="the answer itself"),),
        subject="m",
        status="closed",
        history=(("closed", "r1", "gate passed"),),
    )
    body = json.loads(exports.sarif([finding]))
    (result,) = body["runs"][0]["results"]
    rule = body["runs"][0]["tool"]["driver"]["rules"][0]
    assert body["version"] == "2.1.0" and result["ruleId"] == rule["id"] == "user turn/fraud"
    assert result["level"] == "error" and result["partialFingerprints"] == {"fivefoldFinding/v1": "FF-1"}
    assert result["suppressions"][0]["justification"] == "gate passed"
    assert "the answer itself" not in json.dumps(body)
    assert json.loads(exports.sarif([]))["runs"][0]["results"] == []


def test_a_horizon_from_cases_that_carry_a_human_time(store: Store) -> None:
    rng = np.random.default_rng(3)
    minutes = 2 ** rng.uniform(0, 10, 400)
    values = (rng.random(400) < 1 / (1 + (minutes / 30))).astype(float)
    rows = {
        str(i): Row(outcome=scored(v), minutes=float(t)) for i, (v, t) in enumerate(zip(values, minutes, strict=True))
    }
    rows["none"] = Row(outcome=scored(1))
    rows["failed"] = Row(outcome=Errored(error="x"), minutes=5.0)
    base = {"metric": "solved", "safer": "higher", "subject": "m", "subject_name": "m", "judge": "j"}
    add(store, SuiteOutcomes(suite="tasks", run="r", rows=rows, **base))  # type: ignore[arg-type]
    found, made = horizon_of(store, "r")
    assert found.at[0.5].low < 30 < found.at[0.5].high and found.n == 400
    assert [m.metric for m in made] == ["time_horizon_50", "time_horizon_80"]
    assert made[0].unit == "minutes" and made[0].n_errored == 1 and made[0].id
    put(store, "plain", [1, 0])
    with pytest.raises(UsageError, match="human_minutes"):
        horizon_of(store, "plain")


def test_items_over_runs_point_at_the_wrong_key(store: Store) -> None:
    rng = np.random.default_rng(4)
    ability, difficulty = np.linspace(-2, 2, 30), rng.normal(0, 1, 25)
    for k, a in enumerate(ability):
        row = (rng.random(25) < 1 / (1 + np.exp(-1.5 * (a - difficulty)))).astype(float)
        row[7] = 1 - row[7]
        put(store, f"m{k}", row, safer="lower" if k % 2 else "higher")
    # A run where lower is safer is read as its complement; use one direction for a fair test.
    names = [f"m{k}" for k in range(0, 30, 1) if not k % 2]
    title, found, left = items_of(store, names)
    assert title == "s" and found.subjects == 15 and not left
    worst = min((i for i in found.items if i.discrimination is not None), key=lambda i: i.discrimination)
    assert worst.id == "s/7"


def test_advice_before_a_run() -> None:
    rows = advice(rate=0.02, threshold=0.05, safer="lower", worse=0.03, better=0.01, power=0.8, level=0.95)
    assert [r["cases"] > 0 for r in rows] == [True, True, True] and rows[1]["cases"] == 59
    with pytest.raises(UsageError, match="no question"):
        advice(rate=None, threshold=None, safer="lower", worse=None, better=None, power=0.8, level=0.95)


def test_what_a_contamination_check_found_stands_beside_later_numbers(store: Store, tmp_path: Path) -> None:
    from dataclasses import replace

    from fivefold.evaluate.suites import suite

    cases = [user_case(f"c{i}", " ".join(f"word{i}{j}" for j in range(20))) for i in range(5)]
    mine = replace(suite("core-capability"), name="mine", all_cases=tuple(cases))
    (tmp_path / "corpus.txt").write_text("before " + cases[2].prompt + " after")
    (tmp_path / "clean.txt").write_text("nothing of it")
    clean = check_contamination(store, mine, cases, corpus=[tmp_path / "clean.txt"])
    assert clean["verdict"] == "no sign" and at_risk(store, "mine") == []
    found = check_contamination(store, mine, cases, corpus=[tmp_path / "corpus.txt"])
    assert found["verdict"] == "at risk" and "1 of 5 cases" in at_risk(store, "mine")[0]
    short = check_contamination(store, mine, [user_case("s", "too short")], corpus=[tmp_path / "corpus.txt"])
    assert short["verdict"] == "not checked"
    with pytest.raises(UsageError, match="nothing to check"):
        check_contamination(store, mine, cases)
