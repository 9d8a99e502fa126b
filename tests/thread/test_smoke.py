"""The tour on the embedded model: every step for real, on few cases. CI runs `plans/smoke.yaml` through this test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fivefold.cli.app import run
from fivefold.evidence import Store, verify

PLAN = Path(__file__).parents[2] / "plans" / "smoke.yaml"


@pytest.mark.embedded
@pytest.mark.timeout(1800)
def test_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> None:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path))
    code = run(["run", str(PLAN), "--json"])
    body = json.loads(capsysbinary.readouterr().out)
    assert code in (3, 4) and body["decision"] in ("block", "undecided")
    assert [v["name"] for v in body["versions"]] == ["base", "patched", "guarded", "patched+guarded"]
    assert len({v["fingerprint"] for v in body["versions"]}) == 4
    metrics = {m["metric"] for m in body["measurements"]}
    assert {
        "harmful_compliance",
        "over_refusal",
        "capability_accuracy",
        "capability_change",
        "attack_success",
    } <= metrics
    assert body["findings"] and all(f["cause"]["sentence"] for f in body["findings"])
    assert all(f["status"] != "open" for f in body["findings"])
    with Store.open(tmp_path) as store:
        assert verify(store).ok
        parents = {v.kind: v.parent for v in store.versions()}
        assert parents["patched"] and parents["guarded"]
    page = Path(body["report"]).read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "not measured" in page
    assert run(["run", str(PLAN), "--json"]) == code
    again = json.loads(capsysbinary.readouterr().out)
    assert again["run"] == body["run"] and "patch" in again["reused"] and "evaluate base" in again["reused"]
    assert [m["id"] for m in again["measurements"]] == [m["id"] for m in body["measurements"]]
    guarded = ["evaluate", "core-harms", "--model", f"guarded:{PLAN}", "--limit", "1", "--language", "en", "--json"]
    assert run(guarded) == 0
    assert json.loads(capsysbinary.readouterr().out)["measurements"][0]["n_scored"] == 1
