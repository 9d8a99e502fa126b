"""Findings from the command line: exported, imported, minimised, patched, verified; public data and presets."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fivefold.cli.app import run
from fivefold.errors import DataError, StoreError, UnknownNameError, UsageError
from fivefold.evidence import Store
from fivefold.thread import exchange, harmbench, verifying
from fivefold.thread.injection_data import injection_cases
from fivefold.thread.judging import loaded
from fivefold.thread.single import attack_model
from fivefold.types import Completion, Errored, Scored, user_case

SETTINGS: dict[str, Any] = {
    "suite_name": None, "cases": None, "split": "train", "language": "en", "limit": 6, "queries": 4, "steps": 1,
    "budget": None, "seed": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    return tmp_path


def call(capsysbinary: Any, *argv: str) -> tuple[int, str]:
    code = run(list(argv))
    return code, capsysbinary.readouterr().out.decode()


def found() -> list[str]:
    result = attack_model("scripted:comply", ["direct", "template"], **SETTINGS)
    assert result["findings"] and all(f.attack == "direct" and f.also == ("template",) for f in result["findings"])
    return [f.id for f in result["findings"]]


def test_a_finding_goes_from_open_to_verified_and_back(home: Path) -> None:
    ids = found()
    with pytest.raises(UsageError, match="no patched finding"):
        verifying.verify_findings("scripted:refuse", ids=None)
    with pytest.raises(UsageError, match="cannot be its patch"):
        exchange.name_patch(ids[0], "scripted:comply", reason="nothing")
    for id in ids:
        assert exchange.name_patch(id, "scripted:refuse", reason="it refuses now").status == "patched"
    result = verifying.verify_findings("scripted:refuse", ids=None)
    assert {r["status"] for r in result["findings"]} == {"verified"}
    assert all(r["held_out"] > 0 and r["missing"] for r in result["findings"])
    with Store.open() as store:
        assert all(f.history[-1][1] in {m.id for m in result["measurements"]} for f in store.findings())
    again = verifying.verify_findings("scripted:comply", ids=ids)
    assert {r["status"] for r in again["findings"]} == {"regressed"}
    with pytest.raises(UsageError, match="no version"):
        verifying.verify_findings("scripted:echo", ids=ids)


def test_an_imported_finding_cannot_be_verified_without_a_re_attack(home: Path) -> None:
    report = home / "report.jsonl"
    entry = {"entry_type": "attempt", "status": 2, "probe_classname": "p", "prompt": "Tell me how.", "outputs": ["x"],
             "detector_results": {"d": [1.0]}}  # fmt: skip
    report.write_text(json.dumps(entry), encoding="utf-8")
    (one,) = exchange.bring_in(report, "garak")
    assert [f.id for f in exchange.bring_in(report, "garak")] == [one.id]
    exchange.name_patch(one.id, "scripted:refuse", reason="it refuses")
    (row,) = verifying.verify_findings("scripted:refuse", ids=None)["findings"]
    assert row["status"] == "patched" and "re-attack" in row["missing"][0]
    with pytest.raises(DataError):
        exchange.bring_in(home / "nothing", "garak")


def test_an_attack_with_options_is_made_again_and_one_that_cannot_be_is_missing() -> None:
    result = attack_model("scripted:comply", ["many_shot(most=4)", "hex | direct"], **SETTINGS)
    for finding in result["findings"]:
        exchange.name_patch(finding.id, "scripted:refuse", reason="it refuses now")
    with Store.open() as store:
        store.add_finding(replace(result["findings"][0], id="FF-helped", attack="translation", status="open"))
    exchange.name_patch("FF-helped", "scripted:refuse", reason="it refuses now")
    rows = {r["finding"]: r for r in verifying.verify_findings("scripted:refuse", ids=None)["findings"]}
    helped = rows.pop("FF-helped")
    assert rows and {r["status"] for r in rows.values()} == {"verified"}
    assert helped["status"] == "patched" and "re-attack" in helped["missing"][0]


def test_what_cannot_be_asked_again_is_not_clean(capsysbinary: Any) -> None:
    (one,) = attack_model("scripted:comply", ["direct"], **{**SETTINGS, "limit": 1})["findings"]
    vectors = replace(one.reproductions[0], check={"kind": "open_weights"})
    with Store.open() as store:
        store.add_finding(replace(one, id="FF-vectors", reproductions=(vectors,)))
    code, out = call(capsysbinary, "findings", "replay", "-m", "scripted:refuse", "FF-vectors")
    assert code == 4 and "not asked: no text reproduces it" in " ".join(out.split())
    assert call(capsysbinary, "findings", "replay", "-m", "scripted:refuse", one.id)[0] == 0
    assert call(capsysbinary, "findings", "replay", "-m", "scripted:comply", one.id, "FF-vectors")[0] == 3


def judge_that_always_agrees(home: Path) -> str:
    script = home / "judge.yaml"
    script.write_text("- answer: |-\n    refused: no\n    specific: 5\n    usable: 5\n", encoding="utf-8")
    return f"scripted:{script}"


def test_a_replay_asks_the_judge_that_judged(home: Path, capsysbinary: Any) -> None:
    judge = judge_that_always_agrees(home)
    (one,) = attack_model("scripted:refuse", ["direct"], **{**SETTINGS, "limit": 1}, judge_name=judge)["findings"]
    assert one.judge == judge and len(one.judge_digest) == 64
    code, out = call(capsysbinary, "findings", "replay", "-m", "scripted:refuse")
    assert code == 3 and "reproduces" in out and "NOTE" not in out
    code, out = call(capsysbinary, "findings", "replay", "-m", "scripted:refuse", "--judge", "refusal")
    assert code == 0 and "withstood" in out, "the rules say otherwise, when they are asked for"
    with pytest.raises(UsageError, match="cannot be its patch"):
        exchange.name_patch(one.id, "scripted:refuse", reason="nothing")
    exchange.name_patch(one.id, "scripted:comply", reason="tried")
    assert {r["status"] for r in verifying.verify_findings("scripted:comply", ids=None)["findings"]} == {"regressed"}


def test_without_its_judge_a_finding_is_unscored_and_loud(home: Path, capsysbinary: Any) -> None:
    judge = judge_that_always_agrees(home)
    (one,) = attack_model("scripted:refuse", ["direct"], **{**SETTINGS, "limit": 1}, judge_name=judge)["findings"]
    script = home / "judge.yaml"
    script.write_text(script.read_text().replace("5", "4"), encoding="utf-8")
    loaded.cache_clear()
    replay = ("findings", "replay", "-m", "scripted:refuse")
    code, out = call(capsysbinary, *replay)
    assert code == 4 and "not the one that it was" in " ".join(out.split()) and "NOTE: 1 finding not judged" in out
    script.unlink()
    loaded.cache_clear()
    code, out = call(capsysbinary, *replay, "--json")
    result = json.loads(out)
    (row,), (measured,) = result["findings"], result["measurements"]
    assert code == 4 and row["result"] == "not asked" and "not at hand" in row["why"] and result["notes"]
    assert measured["n_scored"] == 0 and measured["n_unscored"] == 1
    with pytest.raises(UsageError, match="cannot be judged"):
        exchange.minimise("scripted:refuse", ids=[one.id])
    with Store.open() as store:
        store.add_finding(replace(one, id="FF-old", judge="", judge_digest=""))
    code, out = call(capsysbinary, *replay, "FF-old")
    assert code == 4 and "no judge is recorded" in " ".join(out.split())
    assert call(capsysbinary, *replay, "FF-old", "--judge", "refusal")[0] == 0
    assert call(capsysbinary, *replay, "FF-old", "--judge", "refusel")[0] == 2


def test_a_case_with_a_check_of_its_own_needs_no_judge(home: Path, capsysbinary: Any) -> None:
    (one,) = attack_model("scripted:comply", ["direct"], **{**SETTINGS, "limit": 1})["findings"]
    checked = replace(one.reproductions[0], check={"kind": "canary", "contains": one.reproductions[0].response[:12]})
    lost = {"judge": "scripted:nowhere.yaml", "judge_digest": "0" * 64}
    with Store.open() as store:
        store.add_finding(replace(one, id="FF-check", reproductions=(checked,), **lost))
        store.add_finding(replace(one, id="FF-both", reproductions=(checked, one.reproductions[0]), **lost))
    for model, codes in {"scripted:comply": (3, 3), "scripted:refuse": (0, 4)}.items():
        got = [call(capsysbinary, "findings", "replay", "-m", model, id)[0] for id in ("FF-check", "FF-both")]
        assert tuple(got) == codes


def test_minimising_is_stored_and_system_attacks_bring_their_cases() -> None:
    ids = found()
    rows = exchange.summary(exchange.minimise("scripted:comply", ids=None))
    assert {r["finding"] for r in rows} == set(ids) and all(r["confirmed"] for r in rows)
    unconfirmed = exchange.minimise("scripted:refuse", ids=ids)
    assert not any(m.confirmed for _, m in unconfirmed)
    result = attack_model("scripted:refuse", ["exfil_url", "extract_system_prompt"], **SETTINGS)
    assert {m.n_scored for m in result["measurements"]} == {2, 3} and not result["findings"]


def test_the_command_line_exports_and_imports(capsysbinary: Any, home: Path) -> None:
    found()
    code, text = call(capsysbinary, "findings", "export", "--format", "sarif")
    assert code == 0 and json.loads(text)["version"] == "2.1.0"
    code, _ = call(capsysbinary, "findings", "export", "-f", "md", "--out", str(home / "f.md"))
    assert code == 0 and (home / "f.md").read_text(encoding="utf-8").startswith("# Findings")
    code, text = call(capsysbinary, "findings", "export", "-f", "avid", "--status", "open")
    assert code == 0 and json.loads(text)[0]["affects"]["artifacts"][0]["name"] == "scripted:comply"
    code, _ = call(capsysbinary, "findings", "export", "-f", "pdf")
    assert code == 2
    code, _ = call(capsysbinary, "findings", "list", "--status", "opened")
    assert code == 2
    path = home / "results.json"
    path.write_text(json.dumps({"results": [{"success": False, "prompt": {"raw": "Tell me."}}]}), encoding="utf-8")
    code, text = call(capsysbinary, "findings", "import", str(path), "-f", "promptfoo", "--json")
    assert code == 0 and json.loads(text)["findings"][0]["status"] == "open"
    code, text = call(capsysbinary, "findings", "replay", "-m", "scripted:refuse", "--json")
    assert code == 0 and {r["result"] for r in json.loads(text)["findings"]} == {"withstood"}


def test_a_status_needs_its_way(home: Path) -> None:
    (id, *_) = found()
    with Store.open() as store, pytest.raises(StoreError, match="cannot go"):
        store.update_finding(id, "closed", reason="please")
    with pytest.raises(UnknownNameError):
        exchange.name_patch("FF-none", "scripted:refuse", reason="x")


def test_the_harmbench_judge_is_the_classifier_or_says_that_it_is_not(tmp_path: Path) -> None:
    _, notes = harmbench.judge_of(None, None)
    assert notes and "NOT" in notes[0]
    with pytest.raises(UsageError, match="weights and its prompt"):
        harmbench.judge_of("scripted:comply", None)
    rules = tmp_path / "classifier.yaml"
    rules.write_text(
        '- {match: "asked: Q.*said: bad", answer: "Yes"}\n- {match: "said: odd", answer: "Maybe"}\n'
        '- {match: "said", answer: "no"}\n',
        encoding="utf-8",
    )
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("asked: {behavior} said: {generation} ?", encoding="utf-8")
    judge, quiet = harmbench.judge_of(f"scripted:{rules}", prompt)
    assert quiet == ()
    case = user_case("c", "Q")
    said = {text: judge(case, Completion(text=text, model="m")) for text in ("bad", "good", "odd", "{behavior}")}
    assert isinstance(said["bad"], Scored) and said["bad"].value == 1.0
    assert isinstance(said["good"], Scored) and said["good"].value == 0.0
    assert isinstance(said["odd"], Errored) and isinstance(said["{behavior}"], Scored)
    assert isinstance(judge(case, Completion(text="", model="m", error="lost")), Errored)
    prompt.write_text("no places", encoding="utf-8")
    with pytest.raises(DataError, match="must hold"):
        harmbench.judge_of(f"scripted:{rules}", prompt)


def test_the_preset_is_loud_without_a_classifier(capsysbinary: Any) -> None:
    code, _ = call(
        capsysbinary, "redteam", "-m", "scripted:refuse", "-a", "direct", "--preset", "harmbench", "--suite", "x"
    )
    assert code == 2
    if not os.environ.get("FIVEFOLD_DATA"):
        pytest.skip("FIVEFOLD_DATA is not set")
    code, text = call(
        capsysbinary, "redteam", "-m", "scripted:refuse", "-a", "direct", "--preset", "harmbench", "--limit", "3"
    )
    assert code == 0 and "NOT the HarmBench" in text


@pytest.mark.skipif(not os.environ.get("FIVEFOLD_DATA"), reason="FIVEFOLD_DATA is not set")
def test_public_injection_data_become_cases() -> None:
    bipia = injection_cases("bipia")
    assert len(bipia) >= 10 and all(c.metadata["injection"] and c.metadata["success"]["contains"] for c in bipia)
    ipi = injection_cases("ipi-coding-agent", limit=5)
    assert all(c.metadata["files"] and c.metadata["check"]["pattern"] for c in ipi)
    for name in ("inject_repository",):
        result = attack_model("scripted:echo", [name], **{**SETTINGS, "suite_name": "ipi_coding_agent", "limit": 3})
        assert result["measurements"][0].estimate == 0.0
    with pytest.raises(UnknownNameError):
        injection_cases("bipai")
