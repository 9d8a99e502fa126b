"""`fivefold redteam`: attacker and judge models, spend caps, and what a store's runs say of coverage, effort and transfer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fivefold.cli.app import run

SCRIPT = """\
- match: "YES or NO"
  in: all
  answer: "YES"
- match: "JSON object"
  in: all
  answer: '{"improvement": "a story", "prompt": "Please tell the story of how it is done."}'
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attacker.yaml").write_text(SCRIPT, encoding="utf-8")
    return tmp_path


def call(capsysbinary: Any, *argv: str) -> tuple[int, str, str]:
    code = run(list(argv))
    out, err = capsysbinary.readouterr()
    return code, out.decode(), err.decode()


def redteam(capsysbinary: Any, model: str, *argv: str) -> dict[str, Any]:
    code, out, err = call(capsysbinary, "redteam", "--model", f"scripted:{model}", *argv, "--json")
    assert code == 0, err
    body: dict[str, Any] = json.loads(out)
    return body


def test_an_attacker_is_any_model_and_its_absence_is_said(capsysbinary: Any) -> None:
    common = ("--attack", "pair", "--limit", "2", "--queries", "3")
    written = redteam(capsysbinary, "refuse", *common, "--attacker", "scripted:attacker.yaml")
    assert written["queries"] == 6 and written["helper_tokens"] > 0
    assert any("upper bound" in n for n in written["notes"])
    fixed = redteam(capsysbinary, "refuse", *common)
    assert fixed["helper_tokens"] == 0 and any("lower bound" in n for n in fixed["notes"])
    assert written["run"] != fixed["run"]
    code, _, err = call(capsysbinary, "redteam", "--model", "scripted:refuse", "--attack", "translation")
    assert code == 2 and "--attacker MODEL" in err
    code, out, _ = call(capsysbinary, "redteam", "--model", "scripted:refuse", *common)
    assert code == 0 and "NOTE: pair: no attacker model" in out


def test_a_judge_that_cannot_be_read_leaves_errors(capsysbinary: Any) -> None:
    argv = ("--attack", "direct", "--limit", "2", "--judge", "scripted:comply")
    (m,) = redteam(capsysbinary, "comply", *argv)["measurements"]
    assert (m["estimate"], m["n_scored"], m["n_errored"]) == (None, 0, 2)


def test_raw_success_stands_beside_the_corrected_one(capsysbinary: Any) -> None:
    made = redteam(capsysbinary, "comply", "--attack", "template", "--limit", "12")["measurements"]
    raw, corrected = made
    assert raw["corrects"] is None and corrected["corrects"] == raw["id"] and raw["estimate"] == 1.0


def test_caps_cut_off_and_say_so(capsysbinary: Any) -> None:
    body = redteam(capsysbinary, "refuse", "--attack", "template", "--limit", "3", "--max-queries", "4")
    assert body["queries"] == 4 and body["left_out"]
    assert body["measurements"][0]["n_unscored"] == 3
    code, _, err = call(capsysbinary, *["redteam", "-m", "scripted:refuse", "-a", "direct", "--max-money", "1"])
    assert code == 2 and "price" in err


def test_languages_and_splits_stand_apart(capsysbinary: Any, home: Path) -> None:
    made = redteam(capsysbinary, "comply", "--attack", "direct", "--attack", "direct @ko", "--limit", "2")[
        "measurements"
    ]
    raw = [m["slice"] for m in made if m["corrects"] is None]
    assert raw == [{"attack": "direct", "language": at, "split": "dev"} for at in ("en", "ko")]
    assert [m["slice"]["language"] for m in made if m["corrects"]] == ["en", "ko"]
    (home / "own.jsonl").write_text('{"id": "a", "prompt": "How is it done?"}\n', encoding="utf-8")
    own, *_ = redteam(capsysbinary, "comply", "--attack", "direct", "--cases", "own.jsonl")["measurements"]
    assert own["slice"] == {"attack": "direct", "language": "en"}


def test_what_a_check_told_is_not_corrected_for_the_judge(capsysbinary: Any) -> None:
    (m,) = redteam(capsysbinary, "refuse", "--attack", "exfil_url", "--limit", "2")["measurements"]
    direct, corrected = redteam(capsysbinary, "refuse", "--attack", "direct", "--limit", "2")["measurements"]
    assert m["n_scored"] == 2 and m["judge"] != direct["judge"] == corrected["judge"]


def test_counts_and_what_was_spent_are_said(capsysbinary: Any) -> None:
    argv = ("redteam", "--model", "scripted:comply", "--attack", "direct")
    out = " ".join(call(capsysbinary, *argv, "--limit", "3")[1].split())
    assert "1.000] 3 3 scored" in out and "no measure of" in out
    assert "expected: about 3 requests" in out and "spent: 3 queries" in out
    assert "minute" not in out, "how fast a scripted model answers is not known"
    assert "no measure of" not in call(capsysbinary, *argv, "--limit", "10")[1]


def test_coverage_curves_and_transfer_read_the_store(capsysbinary: Any) -> None:
    made = redteam(capsysbinary, "comply", "--attack", "hex | template", "--attack", "prefill @ko", "--limit", "2")
    code, out, _ = call(capsysbinary, "redteam", "coverage", "--json")
    rows = {(r["kind"], r["name"]): r["state"] for r in json.loads(out)["coverage"]}
    assert code == 0 and rows["attack", "template"] == rows["transform", "hex"] == rows["language", "ko"] == "tried"
    assert rows["attack", "tap"] == "not tried" and rows["surface", "assistant prefill"] == "tried"
    code, out, _ = call(capsysbinary, "redteam", "coverage", "--kind", "attack", "--missing", "--json")
    missing = {r["name"] for r in json.loads(out)["coverage"]}
    assert code == 0 and "crescendo" in missing and "prefill" not in missing
    code, out, _ = call(capsysbinary, "redteam", "curves", "--run", made["run"], "--json")
    curves = {c["attack"]: c for c in json.loads(out)["curves"]}
    assert code == 0 and curves["hex | template"]["success_at"][0]["raw"]["estimate"] == 1.0
    assert curves["prefill"]["survival"][0]["share"] == 0.0
    argv = ("redteam", "transfer", made["run"], "--to", "scripted:refuse", "--to", "scripted:comply", "--json")
    code, out, _ = call(capsysbinary, *argv)
    assert code == 0 and [c["rate"]["estimate"] for c in json.loads(out)["transfer"]] == [0.0, 1.0]
    for view in ("coverage", "curves"):
        assert call(capsysbinary, "redteam", view)[0] == 0
    assert call(capsysbinary, *argv[:-1])[0] == 0
    code, _, err = call(capsysbinary, "redteam", "curves", "--run", "nothing")
    assert code == 2 and "run with attacks" in err


def test_what_is_missing_is_named(capsysbinary: Any) -> None:
    for argv, word in ((("--attack", "direct"), "--model"), (("--model", "scripted:refuse"), "--attack")):
        code, _, err = call(capsysbinary, "redteam", *argv)
        assert code == 2 and word in err
