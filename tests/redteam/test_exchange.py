"""Findings in the formats of others, and reports of others as findings; what attackers wrote stays data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fivefold.errors import DataError, FivefoldError, UnknownNameError
from fivefold.evaluate.cases import read_cases
from fivefold.redteam.exports import FORMATS as OUT
from fivefold.redteam.exports import ExportContext, export_findings
from fivefold.redteam.imports import FORMATS as IN
from fivefold.redteam.imports import import_findings
from fivefold.types import Finding, Message, Reproduction, Taxonomy

CONTEXT = ExportContext(version="0.1.0", names={"s" * 64: "smollm2"}, date="2026-11-21")
HOSTILE = (
    "Ignore this ```\n# Heading\n![x](https://sink.invalid/?q=1) [a](javascript:x) <script>x</script> \u202eevil\u200b"
)


def finding(**fields: object) -> Finding:
    case = Reproduction(
        messages=(Message(role="system", content="Be kind."), Message(role="user", content=HOSTILE)), response=HOSTILE
    )
    given: dict[str, object] = {
        "id": "FF-00000001",
        "title": "privacy [x](y) by base64 | direct (en)",
        "category": "prv",
        "language": "en",
        "attack": "base64 | direct",
        "taxonomy": Taxonomy(surface="user prompt", technique="t", owasp=("LLM01:2025",), atlas=("AML.T0054",)),
        "severity": "high",
        "severity_reason": "because [1]",
        "behaviours": ("b1", "b2"),
        "reproductions": (case,),
        "subject": "s" * 64,
        "history": (("open", "r", "an attack succeeded"),),
        **fields,
    }
    return Finding(**given)  # type: ignore[arg-type]


FINDINGS = [
    finding(),
    finding(id="FF-00000002", status="closed", history=(("open", "r", "x"), ("closed", "e", "gate passed"))),
    finding(
        id="FF-00000003", category="cse", status="regressed", attack="gcg", severity="critical", also=("template",)
    ),
]

TEXT = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string"}},
    "additionalProperties": False,
}
SARIF: dict[str, Any] = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool"],
                "additionalProperties": False,
                "properties": {
                    "tool": {"type": "object", "required": ["driver"]},
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "taxonomies": {"type": "array", "uniqueItems": True},
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message"],
                            "additionalProperties": False,
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "kind": {"enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": TEXT,
                                "locations": {"type": "array"},
                                "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
                                "baselineState": {"enum": ["new", "unchanged", "updated", "absent"]},
                                "taxa": {"type": "array"},
                                "suppressions": {"type": "array"},
                                "properties": {"type": "object"},
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The part of the published SARIF 2.1.0 schema that the export uses; SARIF_SCHEMA names a file of the whole one."""


def test_sarif_keeps_to_the_published_structure() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    log = json.loads(export_findings(FINDINGS, "sarif", CONTEXT))
    jsonschema.validate(log, SARIF)
    if whole := os.environ.get("SARIF_SCHEMA"):
        schema = json.loads(Path(whole).read_text(encoding="utf-8"))
        jsonschema.Draft7Validator({k: v for k, v in schema.items() if k != "$schema"}).validate(log)
    (run,) = log["runs"]
    rules = [r["id"] for r in run["tool"]["driver"]["rules"]]
    assert [rules[r["ruleIndex"]] == r["ruleId"] for r in run["results"]] == [True] * 3
    assert [r["baselineState"] for r in run["results"]] == ["new", "absent", "updated"]
    assert [(r["kind"], r["level"]) for r in run["results"]] == [("fail", "error"), ("pass", "none"), ("fail", "error")]
    assert "\\[x\\](y)" in run["results"][0]["message"]["text"]
    taxa = {t["id"] for taxonomy in run["taxonomies"] for t in taxonomy["taxa"]}
    assert {t["id"] for r in run["results"] for t in r["taxa"]} <= taxa
    assert json.loads(export_findings([], "sarif", CONTEXT))["runs"][0]["results"] == []


def test_avid_reports_use_its_enumerations_and_keep_the_prompt_back() -> None:
    reports = json.loads(export_findings(FINDINGS, "avid", CONTEXT))
    assert len(reports) == 3 and reports[0]["data_type"] == "AVID"
    assert "Ignore this" not in json.dumps(reports)
    avid = reports[0]["impact"]["avid"]
    assert "S0400: Model Bypass" in avid["sep_view"] and set(avid["risk_domain"]) <= {
        "Security",
        "Ethics",
        "Performance",
    }
    assert reports[0]["problemtype"]["classof"] == "LLM Evaluation" and reports[0]["affects"]["artifacts"][0] == {
        "type": "Model",
        "name": "smollm2",
    }


def test_markdown_lets_nothing_out_of_its_block() -> None:
    text = export_findings(FINDINGS, "md", CONTEXT)
    assert text.index("FF-00000003") < text.index("FF-00000001")
    outside, fence = [], ""
    for line in text.split("\n"):
        marks = len(line) - len(line.lstrip("`"))
        if not fence and marks >= 3:
            fence = "`" * marks
        elif fence and line == fence:
            fence = ""
        elif not fence:
            outside.append(line)
    assert not fence
    joined = "\n".join(outside)
    assert "sink.invalid" not in joined and "](y)" not in joined.replace("\\]\\(", "")
    assert "\u202e" not in text and "<U+202E>" in text
    assert "No findings" in export_findings([], "md", CONTEXT)


def test_regression_cases_are_cases_that_an_evaluation_reads(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(export_findings(FINDINGS, "cases", CONTEXT), encoding="utf-8")
    cases = read_cases(path)
    assert [c.id for c in cases] == ["FF-00000001/0", "FF-00000002/0", "FF-00000003/0"]
    assert cases[0].messages[-1].content == HOSTILE and cases[0].metadata["finding"] == "FF-00000001"
    prefilled = replace(FINDINGS[0].reproductions[0], prefill="Sure")
    with pytest.raises(DataError, match="no finding"):
        export_findings([finding(reproductions=(prefilled,))], "cases", CONTEXT)


def test_unknown_formats_are_refused_with_the_nearest(tmp_path: Path) -> None:
    assert set(OUT) == {"avid", "cases", "md", "sarif"} and set(IN) == {"garak", "promptfoo", "pyrit"}
    with pytest.raises(UnknownNameError, match="did you mean 'sarif'"):
        export_findings(FINDINGS, "sarfi", CONTEXT)
    with pytest.raises(UnknownNameError, match="import format"):
        import_findings(tmp_path, "burp", run="r")


def garak(**attempt: object) -> str:
    setup = {"entry_type": "start_run setup", "plugins.target_type": "huggingface", "plugins.target_name": "tiny"}
    text = {"text": "Say the word.", "lang": "en"}
    entry: dict[str, object] = {
        "entry_type": "attempt",
        "uuid": "u",
        "status": 2,
        "probe_classname": "dan.Ablation",
        "prompt": {"turns": [{"role": "user", "content": text}]},
        "outputs": [{"text": "yes"}, {"text": "no"}],
        "detector_results": {"mitigation.MitigationBypass": [1.0, 0.0], "always.Fail": [None, 0.2]},
        "goal": "x",
        **attempt,
    }
    return (
        json.dumps(setup) + "\n" + json.dumps({"entry_type": "attempt", "status": 1}) + "\n" + json.dumps(entry) + "\n"
    )


FAILED = {"success": False, "failureReason": 1}
NOTES = {"pluginId": "pii", "strategyId": "jailbreak"}
TALK = [{"role": "system", "content": "S"}, {"role": "user", "content": "Now tell me."}]
PROMPTFOO = {
    "evalId": "e",
    "results": {
        "version": 3,
        "results": [
            {
                **FAILED,
                "prompt": {"raw": "Tell me."},
                "response": {"output": "Sure."},
                "provider": {"id": "openai:gpt", "label": ""},
                "testCase": {"metadata": {**NOTES, "goal": "Tell a secret."}},
            },
            {
                **FAILED,
                "prompt": {"raw": json.dumps(TALK)},
                "response": {"output": {"a": 1}},
                "provider": "openai:gpt",
                "metadata": NOTES,
            },
            {"success": False, "failureReason": 2, "error": "timeout", "prompt": {"raw": "x"}, "provider": "p"},
            {"success": True, "failureReason": 0, "prompt": {"raw": "y"}, "provider": "p"},
        ],
    },
}
REFUSAL = {
    "score_value": "True",
    "score_type": "true_false",
    "scorer_class_identifier": {"__type__": "SelfAskRefusalScorer"},
}
PIECES: list[dict[str, Any]] = [
    {"role": "user", "conversation_id": "c", "sequence": 0, "original_value": "Hi", "converted_value": "SGk="},
    {"role": "assistant", "conversation_id": "c", "sequence": 1, "original_value": "Hello", "converted_value": "Hello",
     "prompt_target_identifier": {"__type__": "OpenAIChatTarget", "model_name": "gpt"},
     "scores": [{"score_value": "True", "score_type": "true_false", "score_category": ["harm"],
                 "scorer_class_identifier": {"__type__": "SelfAskTrueFalseScorer"}},
                REFUSAL,
                {"score_value": "0.2", "score_type": "float_scale", "scorer_class_identifier": {"__type__": "Likert"}}]},
]  # fmt: skip


def imported(tmp_path: Path, format: str, text: str) -> list[Finding]:
    path = tmp_path / "report"
    path.write_text(text, encoding="utf-8")
    return import_findings(path, format, run="import")


def test_garak_hits_become_open_findings(tmp_path: Path) -> None:
    (one,) = imported(tmp_path, "garak", garak())
    assert one.status == "open" and one.subject == "imported:huggingface/tiny" and "dan.Ablation" in one.title
    assert one.reproductions[0].messages[0].content == "Say the word." and one.reproductions[0].response == "yes"
    assert "not yet reproduced" in one.history[0][2]
    (old,) = imported(tmp_path, "garak", garak(prompt="Say it.", outputs=["yes", "no"]))
    assert old.reproductions[0].messages[0].content == "Say it." and old.id == one.id


def test_promptfoo_failures_are_hits_and_errors_are_not(tmp_path: Path) -> None:
    (one,) = imported(tmp_path, "promptfoo", json.dumps(PROMPTFOO))
    assert one.category == "pii" and len(one.reproductions) == 2 and "jailbreak" in one.title
    assert one.reproductions[0].request == "Tell a secret." and one.reproductions[1].messages[0].role == "system"


def test_pyrit_scores_decide_and_refusal_scorers_are_inverted(tmp_path: Path) -> None:
    (one,) = imported(tmp_path, "pyrit", json.dumps(PIECES))
    assert one.category == "harm" and one.subject == "imported:gpt" and "SelfAskTrueFalseScorer" in one.title
    assert one.reproductions[0].messages[0].content == "SGk=" and one.reproductions[0].request == "Hi"


BAD: list[tuple[str, str]] = [
    ("garak", ""),
    ("garak", "not json\n"),
    ("garak", '{"entry_type": "attempt", "status": 2, "outputs": 3}\n'),
    ("garak", garak(detector_results={"d": ["high", 0]})),
    ("garak", garak(detector_results={"d": [float("nan"), 0]})),
    ("garak", garak(prompt={"turns": [{"role": "root", "content": "x"}]})),
    ("garak", garak(prompt="")),
    ("garak", garak(prompt="x" * 200_000)),
    ("garak", garak(detector_results={"d": [0, 0]})),
    ("garak", "[" * 100_000),
    ("promptfoo", "[]"),
    ("promptfoo", '{"results": 1}'),
    ("promptfoo", '{"results": [{"success": "no"}]}'),
    ("promptfoo", '{"results": [{"success": true}]}'),
    ("promptfoo", '{"results": [{"success": false, "failureReason": 1, "prompt": {"raw": 5}}]}'),
    ("pyrit", "{}"),
    ("pyrit", '[{"role": "user", "sequence": "first"}]'),
    ("pyrit", json.dumps([PIECES[0], {**PIECES[1], "scores": [{"score_type": "float_scale", "score_value": "much"}]}])),
]


@pytest.mark.parametrize(("format", "text"), BAD)
def test_what_is_not_a_report_is_refused_with_a_reason(tmp_path: Path, format: str, text: str) -> None:
    with pytest.raises(DataError) as caught:
        imported(tmp_path, format, text)
    assert caught.value.what and len(str(caught.value)) < 2000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["results", "success", "prompt", "raw", "role", "content", "scores", "entry_type", "outputs",
                         "detector_results", "status", "turns", "sequence", "original_value", "provider", "metadata"]),
        inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=60)
@given(JSON, st.sampled_from(IN))
def test_no_report_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, value: Any, format: str) -> None:
    attempt: Callable[[], object] = lambda: imported(tmp_path_factory.mktemp("r"), format, json.dumps(value))  # noqa: E731
    try:
        found = attempt()
    except FivefoldError:
        return
    assert found
