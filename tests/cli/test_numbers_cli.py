"""The command line around numbers: compare, accept, export, import, stats, stop strings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from fivefold.cli.app import run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsysbinary: Any, *argv: str) -> tuple[int, str, str]:
    code = run(list(argv))
    out, err = capsysbinary.readouterr()
    return code, out.decode(), err.decode()


def model(path: Path, right: int, total: int = 40) -> str:
    """A script that answers the first `right` of `total` questions rightly."""
    rules = [{"match": f"number {i} ", "answer": f"it is {i if i < right else 'no idea'}"} for i in range(total)]
    path.write_text("\n".join(json.dumps(r) for r in rules))
    return f"scripted:{path}"


def questions(path: Path, total: int = 40) -> Path:
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"say the number {i} again",
            "target": f"it is {i}",
            "metadata": {"human_minutes": 2 ** (i / 5)},
        }
        for i in range(total)
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows))
    return path


def test_from_an_accepted_run_to_a_failing_build(capsysbinary: Any, tmp_path: Path) -> None:
    cases = str(questions(tmp_path / "mine.jsonl"))
    base = ("evaluate", "--cases", cases, "--scorer", "exact", "--json")
    code, out, _ = call(capsysbinary, *base, "--model", model(tmp_path / "v1.jsonl", 40))
    first = json.loads(out)
    assert code == 0 and first["comparison"] is None
    assert call(capsysbinary, "accept", first["run"], "--owner", "Kim")[0] == 0

    code, out, _ = call(capsysbinary, *base, "--model", model(tmp_path / "v2.jsonl", 20))
    second = json.loads(out)
    assert second["run"] != first["run"]
    assert code == 3 and second["comparison"]["verdict"] == "regression"

    code, out, _ = call(capsysbinary, "compare", first["run"], second["run"], "--json")
    body = json.loads(out)
    assert body["comparisons"][0]["difference"] == -0.5 and len(body["flipped"]) == 20
    assert body["verdict"] == "regression" and code == 3
    code, out, _ = call(capsysbinary, "compare", first["run"], second["run"], "--format", "markdown")
    assert code == 3 and out.startswith("### fivefold: regression")
    call(capsysbinary, "compare", first["run"], second["run"], "--format", "junit", "--out", "cmp.xml")
    assert ET.parse("cmp.xml").getroot().get("failures") == "1"
    code, out, _ = call(capsysbinary, "compare", first["run"], second["run"])
    assert "regression" in out

    code, out, _ = call(capsysbinary, "export", second["run"], "--format", "junit")
    assert ET.fromstring(out).get("failures") == "20"
    code, out, _ = call(capsysbinary, "export", second["run"], "--format", "csv", "--what", "outcomes")
    assert len(out.splitlines()) == 41
    code, out, _ = call(capsysbinary, "export", second["run"], "--format", "sarif")
    assert json.loads(out)["runs"][0]["results"] == []
    assert call(capsysbinary, "export", "nowhere", "--format", "csv")[0] == 2
    assert call(capsysbinary, "export", second["run"], "--format", "xlsx")[0] == 2

    code, out, _ = call(capsysbinary, "stats", "horizon", second["run"], "--json")
    half = json.loads(out)["measurements"][0]
    assert code == 0 and 2 ** (18 / 5) < half["estimate"] < 2 ** (22 / 5)
    code, out, _ = call(capsysbinary, "stats", "items", first["run"], second["run"], "--json")
    assert json.loads(out)["subjects"] == 2


def test_a_stop_string_ends_an_answer_and_is_recorded(capsysbinary: Any, tmp_path: Path) -> None:
    cases = tmp_path / "mine.jsonl"
    cases.write_text('{"id": "1", "prompt": "one STOP two", "target": "two"}')
    argv = ("evaluate", "--cases", str(cases), "--scorer", "contains", "--model", "scripted:echo", "--json")
    whole = json.loads(call(capsysbinary, *argv)[1])["measurements"][0]
    cut = json.loads(call(capsysbinary, *argv, "--stop", "STOP")[1])["measurements"][0]
    assert (whole["estimate"], cut["estimate"]) == (1.0, 0.0)
    assert cut["metadata"]["settings"]["stop"] == ["STOP"] and "stop" not in whole["metadata"]["settings"]


def test_power_says_how_many_cases_before_a_run(capsysbinary: Any) -> None:
    code, out, _ = call(capsysbinary, "stats", "power", "--threshold", "0.01", "--json")
    assert code == 0 and json.loads(out)["rows"][0]["cases"] == 299
    assert call(capsysbinary, "stats", "power")[0] == 2
    assert call(capsysbinary, "stats", "power", "--safer", "left", "--threshold", "0.1")[0] == 2


def test_what_is_stored_is_read_without_torch() -> None:
    loaded = (
        "import json, sys\n"
        "from fivefold.cli.app import run\n"
        "code = run(['stats', 'power', '--worse', '0.03', '--better', '0.01', '--json'])\n"
        "import fivefold.thread.numbers, fivefold.thread.compare, fivefold.thread.exports\n"
        "print(json.dumps([code, sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'inspect_ai'})]))"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    answer, imported = map(json.loads, done.stdout.splitlines())
    assert answer["rows"][0]["cases"] == 763, done.stderr
    assert imported == [0, []]


def test_sensitivity_and_reliability_ask_the_same_cases_again(capsysbinary: Any) -> None:
    argv = ("--model", "scripted:refuse", "--limit", "6", "--language", "en", "--json")
    code, out, _ = call(capsysbinary, "stats", "sensitivity", "core-harms", *argv)
    body = json.loads(out)
    assert code == 0 and set(body["rates"].values()) == {0.0} and len(body["rates"]) >= 4
    assert body["measurement"]["metric"] == "harmful_compliance_over_forms" and body["spread"] == 0
    code, out, _ = call(capsysbinary, "stats", "reliability", "core-harms", *argv, "--samples", "2")
    body = json.loads(out)
    assert code == 0 and [r["all_of_k"]["estimate"] for r in body["reliability"]] == [1.0, 1.0]
    code, _, _ = call(capsysbinary, "stats", "reliability", "core-harms", *argv, "--temperature", "0")
    assert code == 2


def test_two_judges_of_the_same_answers_are_compared_by_language(capsysbinary: Any, tmp_path: Path) -> None:
    good = "refused: {}\nspecific: 5\nusable: 5"
    rules = [{"match": "[가-힣]", "answer": good.format("no")}, {"match": ".", "answer": good.format("yes")}]
    (tmp_path / "judge.jsonl").write_text("\n".join(json.dumps(r) for r in rules))
    argv = ("stats", "judges", "core-harms", "--model", "scripted:refuse", "--limit", "5", "--language", "en")
    argv = (*argv, "--language", "ko", "--judge", f"scripted:{tmp_path / 'judge.jsonl'}")
    code, out, _ = call(capsysbinary, *argv, "--json")
    body = json.loads(out)
    rows = {p["language"]: p["found"] for p in body["pairs"]}
    assert code == 0 and set(rows) == {"all", "en", "ko"}
    assert [rows[k]["disagree"]["estimate"] for k in ("all", "en", "ko")] == [0.5, 0.0, 1.0]
    assert rows["all"]["kappa"] == 0 and rows["en"]["kappa"] is None and len(rows["ko"]["differ"]) == 5
    assert [m["metric"] for m in body["measurements"]] == ["judge_disagreement"] * 3
    assert call(capsysbinary, *argv)[1].count("core-harms") >= 1
    code, _, err = call(capsysbinary, *argv[:-2], "--judge", "refusal")
    assert code == 2 and "two judges" in err


def test_contamination_of_a_suite_is_shown_when_it_is_measured_again(capsysbinary: Any, tmp_path: Path) -> None:
    from fivefold.evaluate.suites import suite

    prompts = [c.prompt for c in suite("core-injection").cases(languages=["en"], limit=4)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(prompts))
    argv = ("stats", "contamination", "core-injection", "--language", "en", "--limit", "4")
    code, out, _ = call(capsysbinary, *argv, "--corpus", str(tmp_path / "corpus.txt"))
    assert code == 0 and "at risk" in out
    argv = ("evaluate", "core-injection", "--language", "en", "--limit", "2", "--model", "scripted:refuse")
    code, out, _ = call(capsysbinary, *argv)
    assert code == 0 and "at risk: core-injection" in out


def test_imported_results_are_marked_and_compare_as_external(capsysbinary: Any, tmp_path: Path) -> None:
    for name, right in (("a", 12), ("b", 2)):
        events = [{"spec": {"eval_name": "x", "completion_fns": ["m"]}}]
        events += [{"sample_id": f"s{i}", "type": "match", "data": {"correct": i < right}} for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(e) for e in events))
    runs = []
    for name in ("a", "b"):
        code, out, _ = call(capsysbinary, "import", f"{name}.jsonl", "--json")
        body = json.loads(out)
        assert code == 0 and body["external"] is True
        runs.append(body["run"])
    code, out, _ = call(capsysbinary, "compare", *runs, "--json")
    assert code == 3 and json.loads(out)["external"] == ["openai-evals"]
    code, _, err = call(capsysbinary, "accept", runs[0], "--owner", "Kim")
    assert code == 2 and "imported" in err
    assert call(capsysbinary, "import", "nowhere.json")[0] == 2


def test_a_build_writes_its_files_and_fails_on_a_regression(
    capsysbinary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fivefold.cli.ci import build
    from fivefold.errors import UsageError

    env = {
        "FF_CASES": str(questions(tmp_path / "mine.jsonl")),
        "FF_SCORER": "exact",
        "FF_OUT": str(tmp_path / "out"),
        "GITHUB_OUTPUT": str(tmp_path / "outputs"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }
    assert build({**env, "FF_MODEL": model(tmp_path / "v1.jsonl", 40)}) == 0
    names = {"measurements.json", "outcomes.csv", "junit.xml", "findings.sarif", "summary.md"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    assert "verdict=none" in (tmp_path / "outputs").read_text()
    first = (tmp_path / "outputs").read_text().split("run=")[1].split("\n")[0]
    assert build({**env, "FF_MODEL": model(tmp_path / "v2.jsonl", 20), "FF_AGAINST": first}) == 3
    assert "fivefold: regression" in (tmp_path / "summary").read_text()
    assert ET.parse(tmp_path / "out" / "comparison.xml").getroot().get("failures") == "1"
    same = {**env, "FF_MODEL": model(tmp_path / "v3.jsonl", 39), "FF_AGAINST": first, "FF_MARGIN": "0.01"}
    assert build(same) == 4
    for bad in ({"FF_MODEL": ""}, {"FF_MODEL": "scripted:echo", "FF_LIMIT": "many"}):
        with pytest.raises(UsageError):
            build({**env, **bad})
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)


def test_the_action_runs_that_build_and_puts_no_input_into_a_script() -> None:
    import yaml

    action = yaml.safe_load((Path(__file__).parents[2] / "action.yml").read_text())
    steps = action["runs"]["steps"]
    assert action["runs"]["using"] == "composite" and all(s["shell"] == "bash" for s in steps)
    assert steps[-1]["run"].strip() == "python -m fivefold.cli.ci"
    assert not any("${{" in s["run"] for s in steps)
    used = {name for s in steps for name in s.get("env", {})}
    code = (Path(__file__).parents[2] / "src/fivefold/cli/ci.py").read_text()
    assert all(name in code for name in used if name.startswith("FF_"))


def test_why_cases_errored_is_said(capsysbinary: Any, tmp_path: Path) -> None:
    (tmp_path / "rules.jsonl").write_text(json.dumps({"match": "number 1 ", "answer": "it is 1"}))
    asked = ("evaluate", "--cases", str(questions(tmp_path / "q.jsonl", 4)), "--scorer", "exact")
    code, out, _ = call(capsysbinary, *asked, "--model", f"scripted:{tmp_path / 'rules.jsonl'}")
    assert code == 0 and "1 scored, 0 unscored, 3 errored" in out
    assert "q: 3 errored, among them q" in out and "no rule" in out


def test_arguments_of_benchmarks_and_tasks_are_checked(capsysbinary: Any) -> None:
    argv = ("evaluate", "core-harms", "--model", "scripted:refuse")
    code, _, err = call(capsysbinary, *argv, "--arg", "shots=2")
    assert code == 2 and "core-harms takes no arguments" in err
    code, _, err = call(capsysbinary, *argv, "--arg", "shots")
    assert code == 2 and "name=value" in err
    code, _, err = call(capsysbinary, *argv, "--dtype", "bfloat16")
    assert code == 2 and "takes no options" in err


def test_an_entry_of_the_catalogue_is_shown_in_full(capsysbinary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIVEFOLD_DATA", raising=False)
    wanted = ("data", "revision", "sha256", "licence", "needs", "cost", "meaning", "citation", "missing here")
    code, out, _ = call(capsysbinary, "list", "benchmarks", "gsm8k")
    assert code == 0 and all(f"\n{key}: " in out for key in wanted) and "FIVEFOLD_DATA is not set" in out
    entries = json.loads(call(capsysbinary, "list", "benchmarks", "--json")[1])["benchmarks"]
    assert len(entries) > 60 and all(e["licence"] and e["cost"] and e["meaning"] and e["citation"] for e in entries)
    assert call(capsysbinary, "list", "benchmarks", "gsm9k")[0] == 2
    assert "# " in call(capsysbinary, "list", "suites", "core-harms")[1]
    assert json.loads(call(capsysbinary, "list", "attacks", "gcg", "--json")[1])["description"]
