"""AVID reports (AI Vulnerability Database, avidtools' `Report` data model 0.2): one a finding, as a JSON list.

Field names and enumerations follow avidtools; a report of a weakness is an `LLM Evaluation` of type `Detection`, and
its identifier is left to the database. Only the description of the weakness is given, not the reproducing text: a
report is made to be published.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fivefold.redteam.exports import ExportContext
from fivefold.types import Finding

DATA_VERSION, TAXONOMY_VERSION = "0.2", "0.2"
LEAK = ("S0301: Information Leak", "S0500: Exfiltration")
BYPASS = ("S0400: Model Bypass", "S0403: Adversarial Example")
INDIRECT = ("S0601: Ingest Poisoning",)
WALLET = ("S0302: Excessive Queries",)
HARM = {
    "ssh": "P0401: Psychological Safety",
    "vcr": "P0402: Physical safety",
    "iwp": "P0402: Physical safety",
    "hte": "E0301: Toxicity",
    "prv": "P0300: Privacy",
}
ATLAS_URL, OWASP_URL = "https://atlas.mitre.org/techniques/", "https://genai.owasp.org/llm-top-10/"


def export(findings: Sequence[Finding], context: ExportContext) -> str:
    """The reports as JSON text."""
    return json.dumps([_report(f, context) for f in findings], ensure_ascii=False, indent=2) + "\n"


def _report(finding: Finding, context: ExportContext) -> dict[str, Any]:
    model = context.names.get(finding.subject, finding.subject[:12])
    return {
        "data_type": "AVID",
        "data_version": DATA_VERSION,
        "affects": {"developer": [], "deployer": [], "artifacts": [{"type": "Model", "name": model}]},
        "problemtype": {
            "classof": "LLM Evaluation",
            "type": "Detection",
            "description": {"lang": "eng", "value": f"{finding.title}: {finding.taxonomy.technique}"},
        },
        "metrics": [
            {
                "name": "behaviours on which the attack succeeded",
                "detection_method": {"type": "Static Threshold", "name": "judged answer or canary check"},
                "results": {
                    "behaviours": len(finding.behaviours),
                    "attack": finding.attack,
                    "language": finding.language,
                    "fivefold_id": finding.id,
                },
            }
        ],
        "references": _references(finding),
        "description": {
            "lang": "eng",
            "value": f"{finding.title}. Severity {finding.severity}: {finding.severity_reason}. State: "
            f"{finding.status}. Found with fivefold {context.version}.",
        },
        "impact": {
            "avid": {
                "vuln_id": None,
                "risk_domain": _domains(finding),
                "sep_view": _views(finding),
                "lifecycle_view": ["L05: Evaluation"],
                "taxonomy_version": TAXONOMY_VERSION,
            }
        },
        "credit": [],
        "reported_date": context.date,
    }


def _references(finding: Finding) -> list[dict[str, str]]:
    atlas = [{"type": "source", "label": f"MITRE ATLAS {i}", "url": ATLAS_URL + i} for i in finding.taxonomy.atlas]
    return atlas + [{"type": "source", "label": f"OWASP {i}", "url": OWASP_URL} for i in finding.taxonomy.owasp]


def _views(finding: Finding) -> list[str]:
    owasp = {i.split(":")[0] for i in finding.taxonomy.owasp}
    found = list(BYPASS if not owasp & {"LLM02", "LLM07", "LLM10"} else ())
    if owasp & {"LLM02", "LLM07"}:
        found += LEAK
    if "indirect" in finding.taxonomy.technique:
        found += INDIRECT
    if "LLM10" in owasp:
        found += WALLET
    return [*found, HARM[finding.category]] if finding.category in HARM else found


def _domains(finding: Finding) -> list[str]:
    names = {"S": "Security", "E": "Ethics", "P": "Performance"}
    return sorted({names[view[0]] for view in _views(finding)})
