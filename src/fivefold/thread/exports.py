"""Measurements, outcomes, findings and comparisons in the forms that other programs read.

JUnit XML for build servers, SARIF 2.1.0 for code scanning, CSV, Parquet and JSON for analysis, Markdown for pull
requests. Model output goes into these files, so everything is escaped for its format, and control characters that XML
cannot hold are replaced.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from fivefold import __version__
from fivefold.errors import MissingExtraError, UnknownNameError
from fivefold.thread.outcomes import Row, SuiteOutcomes
from fivefold.types import Errored, Finding, Measurement, Scored, Unscored, plain

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note"}
SCORES = {"critical": "9.5", "high": "8.0", "medium": "5.5", "low": "3.0"}
"""SARIF's level and GitHub's `security-severity` (0 to 10) for a finding's severity."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def measurement_rows(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """One flat row a measurement; the slice as text, the settings as JSON."""
    rows = []
    for m in measurements:
        body: dict[str, Any] = plain(m)  # type: ignore[assignment]
        body["slice"] = " ".join(f"{k}={v}" for k, v in sorted(m.slice.items()))
        body["metadata"] = json.dumps(body["metadata"], sort_keys=True, ensure_ascii=False)
        rows.append(body)
    return rows


def outcome_rows(found: Sequence[SuiteOutcomes]) -> list[dict[str, Any]]:
    """One flat row a case: who was asked, how it went, and what is known of the case."""
    return [_outcome_row(suite, id, row) for suite in found for id, row in suite.rows.items()]


def _outcome_row(suite: SuiteOutcomes, id: str, row: Row) -> dict[str, Any]:
    outcome = row.outcome
    return {
        "run": suite.run,
        "suite": suite.suite,
        "case": id,
        "kind": outcome.kind,
        "value": outcome.value if isinstance(outcome, Scored) else None,
        "label": outcome.label if isinstance(outcome, Scored) else "",
        "reason": _why(row),
        "metric": suite.metric,
        "safer": suite.safer,
        "subject": suite.subject,
        "subject_name": suite.subject_name,
        "behaviour": row.behaviour,
        "category": row.category,
        "language": row.language,
        "human_minutes": row.minutes,
        "external": suite.external,
    }


def _why(row: Row) -> str:
    outcome = row.outcome
    if isinstance(outcome, Errored):
        return outcome.error
    return outcome.reason if isinstance(outcome, Unscored) else outcome.explanation


def to_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV with a header. A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    out = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def to_json(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as a JSON array."""
    return json.dumps(list(rows), ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"


def to_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as Parquet; needs the extra `parquet`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(r) for r in rows]), sink)
    return bytes(sink.getvalue())


def junit_of_run(found: Sequence[SuiteOutcomes]) -> bytes:
    """A test case for each case of a run: a failure where its score is on the unsafe side, an error where model or
    judge failed, skipped where there is no score. Where no direction is safer nothing fails."""
    root = ET.Element("testsuites", name="fivefold")
    for suite in found:
        node = ET.SubElement(root, "testsuite", name=_xml(f"{suite.suite} {suite.subject_name}"))
        for id, row in suite.rows.items():
            case = ET.SubElement(node, "testcase", classname=_xml(suite.suite), name=_xml(id), time="0")
            _mark(case, suite, row)
        _count(node)
    _total(root)
    return _document(root)


def _mark(case: ET.Element, suite: SuiteOutcomes, row: Row) -> None:
    outcome = row.outcome
    if isinstance(outcome, Errored):
        ET.SubElement(case, "error", message=_xml(outcome.error[:500]), type="Errored")
    elif isinstance(outcome, Unscored):
        ET.SubElement(case, "skipped", message=_xml(outcome.reason[:500]))
    elif (suite.safer == "higher" and outcome.value < 1) or (suite.safer == "lower" and outcome.value > 0):
        message = f"{suite.metric} {outcome.value:g} ({outcome.label})"
        ET.SubElement(case, "failure", message=_xml(message), type=suite.metric).text = _xml(outcome.explanation)


def junit_of_comparison(result: Mapping[str, Any]) -> bytes:
    """A test case for each test of a comparison: a failure for a regression, an error for an undecided one."""
    root = ET.Element("testsuites", name="fivefold compare")
    node = ET.SubElement(root, "testsuite", name=_xml(f"{result['a']} against {result['b']}"))
    for row in result["comparisons"]:
        name = f"{row['metric']} {row['language']}".strip()
        case = ET.SubElement(node, "testcase", classname=_xml(row["suite"]), name=_xml(name), time="0")
        if row["verdict"] in ("regression", "undecided"):
            kind = "failure" if row["verdict"] == "regression" else "error"
            mark = ET.SubElement(case, kind, message=_xml(sentence(row)), type=row["verdict"])
            worse = [f for f in result["flipped"] if f["suite"] == row["suite"] and f["worse"]]
            mark.text = _xml("\n".join(f"{f['case']}: {f['a']} -> {f['b']}" for f in worse))
    _count(node)
    _total(root)
    return _document(root)


def _count(node: ET.Element) -> None:
    node.set("tests", str(len(node.findall("testcase"))))
    for kind, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        node.set(name, str(len(node.findall(f"testcase/{kind}"))))


def _total(root: ET.Element) -> None:
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(node.get(name, "0")) for node in root)))


def _document(root: ET.Element) -> bytes:
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def sarif(findings: Sequence[Finding], *, uri: str = "fivefold.yaml") -> bytes:
    """Findings as SARIF 2.1.0. A weakness of a model has no line of code: `uri` names the file that it is shown at (the
    plan). Closed and verified findings are suppressed, with their reason; what an attack said stays out."""
    rules: dict[str, dict[str, Any]] = {}
    results = []
    for finding in findings:
        rule = f"{finding.taxonomy.surface}/{finding.category}" if finding.taxonomy.surface else finding.category
        rules.setdefault(rule, _rule(rule, finding))
        results.append(_result(rule, finding, uri))
    driver = {
        "name": "fivefold",
        "version": __version__,
        "rules": list(rules.values()),
    }
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    body = {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(body, ensure_ascii=False, indent=1).encode() + b"\n"


def _rule(rule: str, finding: Finding) -> dict[str, Any]:
    tags = ["security", "ai-safety", *finding.taxonomy.owasp, *finding.taxonomy.atlas]
    return {
        "id": rule,
        "name": rule.replace("/", "_"),
        "shortDescription": {"text": f"{finding.category} by way of {finding.taxonomy.surface or 'the prompt'}"},
        "properties": {"tags": tags, "security-severity": SCORES[finding.severity]},
    }


def _result(rule: str, finding: Finding, uri: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "ruleId": rule,
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.title} ({finding.status}; {finding.severity_reason})"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}],
        "partialFingerprints": {"fivefoldFinding/v1": finding.id},
        "properties": {
            "attack": finding.attack,
            "language": finding.language,
            "status": finding.status,
            "behaviours": len(finding.behaviours),
            "security-severity": SCORES[finding.severity],
        },
    }
    if finding.status in ("verified", "closed"):
        reason = finding.history[-1][2] if finding.history else finding.status
        made["suppressions"] = [{"kind": "external", "status": "accepted", "justification": reason}]
    return made


def markdown_of_comparison(result: Mapping[str, Any], *, cases: int = 10) -> str:
    """A comparison as a comment on a pull request: the verdict, every test, and the first cases that got worse."""
    if result["verdict"] == "not compared":
        return f"### fivefold: not compared with {_md(result['a'])}\n\n{_md(result['reason'])}\n"
    head = f"### fivefold: {result['verdict']} ({_md(result['b'])} against {_md(result['a'])})"
    lines = [
        head,
        "",
        "| suite | metric | n | before | after | difference | p (Holm) | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in result["comparisons"]:
        name = f"{row['suite']} {row['language']}".strip()
        numbers = f"{row['n']} | {row['a']:.3f} | {row['b']:.3f} | {_difference(row)} | {row['p_adjusted']:.3g}"
        lines.append(f"| {_md(name)} | {_md(row['metric'])} | {numbers} | {row['verdict']} |")
    worse = [f for f in result["flipped"] if f["worse"]]
    if worse:
        lines += ["", f"<details><summary>{len(worse)} cases got worse</summary>", ""]
        lines += [f"- `{_code(f['case'])}`: {_md(f['a'])} → {_md(f['b'])}" for f in worse[:cases]]
        lines += [f"- and {len(worse) - cases} more"] if len(worse) > cases else []
        lines += ["", "</details>"]
    lines += ["", _small_print(result)]
    return "\n".join(lines) + "\n"


def markdown_of_measurements(measurements: Sequence[Measurement]) -> str:
    """Measurements as a table: a number is never without its interval and its counts."""
    lines = [
        "| metric | slice | estimate | 95 % interval | scored | unscored | errored |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for m in measurements:
        where = " ".join(f"{k}={v}" for k, v in m.slice.items()) or "all"
        estimate = "not measured" if m.estimate is None else f"{m.estimate:.3f}"
        interval = "" if m.low is None or m.high is None else f"{m.low:.3f} to {m.high:.3f}"
        counts = f"{m.n_scored} | {m.n_unscored} | {m.n_errored}"
        lines.append(f"| {_md(m.metric)} | {_md(where)} | {estimate} | {interval} | {counts} |")
    return "\n".join(lines) + "\n"


def sentence(row: Mapping[str, Any]) -> str:
    """One test of a comparison in words."""
    return (
        f"{row['metric']} went from {row['a']:.3f} to {row['b']:.3f} on {row['n']} shared cases "
        f"({_difference(row)}; p = {row['p_adjusted']:.3g} after Holm; safer is {row['safer']})"
    )


def _difference(row: Mapping[str, Any]) -> str:
    if row["low"] is None or row["high"] is None:
        return f"{row['difference']:+.3f}"
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _small_print(result: Mapping[str, Any]) -> str:
    notes = [f"{result['family']} paired tests in one family, Holm, alpha {result['alpha']:g}."]
    if result["margin"] is not None:
        notes.append(f"Non-inferiority margin {result['margin']:g}.")
    if result["different"]:
        notes.append(f"Not asked alike: {'; '.join(result['different'])}.")
    if result["external"]:
        notes.append(f"Imported, not measured here: {', '.join(result['external'])}.")
    if result["changed_cases"]:
        notes.append(f"{len(result['changed_cases'])} cases changed their text and were left out.")
    return f"<sub>{_md(' '.join(notes))}</sub>"


def _md(text: object) -> str:
    """Text that stays text in a table: no cell, no markup, no mention, no line of its own."""
    flat = re.sub(r"\s+", " ", str(text))
    return re.sub(r"([\\`*_{}\[\]<>|#@])", r"\\\1", flat)


def _code(text: str) -> str:
    return re.sub(r"[`\r\n|]", " ", text)


TABLES: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], bytes]] = {
    "csv": to_csv,
    "json": to_json,
    "parquet": to_parquet,
}
FORMATS = (*TABLES, "junit", "sarif", "markdown")


def write(data: bytes, path: Path) -> Path:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    temporary.replace(path)
    return path


def check_format(name: str) -> str:
    """The format's name; UnknownNameError otherwise."""
    if name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    return name
