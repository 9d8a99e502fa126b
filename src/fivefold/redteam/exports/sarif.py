"""SARIF 2.1.0 (OASIS standard, 27 March 2020): one rule a weakness class, one result a finding.

A finding has no source line, so a result's location is logical: the model, and the surface the attack came through.
`partialFingerprints` carry the finding's id, by which a viewer recognises it in the next run; `baselineState` and
`suppressions` follow its state. Text is plain text without embedded links (§3.11.6: brackets are escaped).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fivefold.redteam.exports import ExportContext
from fivefold.types import Finding

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVEL = {"low": "note", "medium": "warning", "high": "error", "critical": "error"}
SCORE = {"low": "3.0", "medium": "5.5", "high": "8.0", "critical": "9.5"}
"""`security-severity` as code-scanning viewers sort by it (the middle of CVSS's qualitative bands)."""
BASELINE = {"open": "new", "patched": "unchanged", "verified": "unchanged", "closed": "absent", "regressed": "updated"}


def export(findings: Sequence[Finding], context: ExportContext) -> str:
    """The log as JSON text."""
    rules = sorted({_rule_id(f) for f in findings})
    first = {_rule_id(f): f for f in reversed(findings)}
    run = {
        "tool": {
            "driver": {
                "name": "fivefold",
                "semanticVersion": context.version,
                "version": context.version,
                "rules": [_rule(first[r]) for r in rules],
                "supportedTaxonomies": [{"name": "OWASP LLM", "index": 0}, {"name": "MITRE ATLAS", "index": 1}],
            }
        },
        "taxonomies": [
            _taxonomy("OWASP LLM", "OWASP", "OWASP Top 10 for LLM applications", [f.taxonomy.owasp for f in findings]),
            _taxonomy(
                "MITRE ATLAS", "MITRE", "Adversarial threats to AI systems", [f.taxonomy.atlas for f in findings]
            ),
        ],
        "columnKind": "unicodeCodePoints",
        "results": [_result(f, rules.index(_rule_id(f)), context) for f in findings],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, ensure_ascii=False, indent=2) + "\n"


def _rule_id(finding: Finding) -> str:
    return f"{finding.category or 'uncategorised'}/{finding.attack.replace(' | ', '+').replace(' ', '-')}"


def _rule(finding: Finding) -> dict[str, Any]:
    taxonomy = finding.taxonomy
    relations = [("OWASP LLM", i) for i in taxonomy.owasp] + [("MITRE ATLAS", i) for i in taxonomy.atlas]
    return {
        "id": _rule_id(finding),
        "name": _pascal(f"{finding.category} {finding.attack}"),
        "shortDescription": _text(f"{taxonomy.technique} through the {taxonomy.surface}"),
        "fullDescription": _text(
            f"The model answers harmfully (category {finding.category or 'none'}) when attacked by {finding.attack}."
        ),
        "help": _text("Patch the weights, the prompt or the guards; then replay the finding and attack again."),
        "properties": {"tags": ["security", "ai-safety"], "security-severity": SCORE[finding.severity]},
        "relationships": [
            {"target": {"id": id, "toolComponent": {"name": name}}, "kinds": ["superset"]} for name, id in relations
        ],
    }


def _taxonomy(name: str, organization: str, about: str, ids: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    return {
        "name": name,
        "organization": organization,
        "shortDescription": {"text": about},
        "taxa": [{"id": i} for i in sorted({i for group in ids for i in group})],
    }


def _result(finding: Finding, rule: int, context: ExportContext) -> dict[str, Any]:
    model = context.names.get(finding.subject, finding.subject[:12])
    result: dict[str, Any] = {
        "ruleId": _rule_id(finding),
        "ruleIndex": rule,
        "kind": "pass" if finding.status in ("verified", "closed") else "fail",
        "level": "none" if finding.status in ("verified", "closed") else LEVEL[finding.severity],
        "message": _text(f"{finding.title} on {model}: {finding.severity} ({finding.severity_reason})."),
        "locations": [
            {
                "logicalLocations": [
                    {
                        "name": finding.taxonomy.surface,
                        "fullyQualifiedName": f"{model}/{finding.taxonomy.surface}",
                        "kind": "resource",
                    }
                ]
            }
        ],
        "partialFingerprints": {"fivefoldFinding/v1": finding.id},
        "baselineState": BASELINE[finding.status],
        "taxa": [{"id": i, "toolComponent": {"name": "OWASP LLM"}} for i in finding.taxonomy.owasp]
        + [{"id": i, "toolComponent": {"name": "MITRE ATLAS"}} for i in finding.taxonomy.atlas],
        "properties": _properties(finding),
    }
    if finding.status == "closed":
        why = next((r for s, _, r in reversed(finding.history) if s == "closed"), "closed")
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": why}]
    return result


def _properties(finding: Finding) -> dict[str, Any]:
    return {
        "tags": [finding.category, finding.language, finding.status],
        "status": finding.status,
        "language": finding.language,
        "severity": finding.severity,
        "subject": finding.subject,
        "behaviours": list(finding.behaviours),
        "alsoExplains": list(finding.also),
        "reproductions": [
            {"messages": [{"role": m.role, "content": m.content} for m in r.messages], "prefill": r.prefill}
            for r in finding.reproductions
        ],
        "history": [{"status": s, "evidence": e, "reason": r} for s, e, r in finding.history],
    }


def _text(text: str) -> dict[str, str]:
    """A message's plain text; a bracket would begin an embedded link."""
    return {"text": text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")}


def _pascal(text: str) -> str:
    return "".join(w[:1].upper() + w[1:] for w in "".join(c if c.isalnum() else " " for c in text).split())
