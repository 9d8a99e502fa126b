"""An AI-BOM: CycloneDX 1.6 JSON with the model, its parent, data and guards as components, and claims with evidence.

The CycloneDX library writes the envelope and validates strictly; `modelCard`, `data` and `declarations`, which its
object
model does not carry, are added to its JSON before validation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fivefold.errors import FivefoldError, MissingExtraError
from fivefold.govern.documents.claims import Document
from fivefold.types import Decision, Measurement

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class BomInput:
    """What a bill of materials lists. `files` maps a model file to its SHA-256; `datasets` a data set to its digest."""

    name: str
    version: str
    fingerprint: str
    files: Mapping[str, str]
    parent: tuple[str, str] | None = None
    architecture: str = ""
    licence: str = ""
    datasets: Mapping[str, str] = field(default_factory=dict)
    guards: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    measurements: Sequence[Measurement] = ()
    decision: Decision | None = None
    card: Document | None = None


def ai_bom(source: BomInput) -> str:
    """The bill as validated JSON text; raises when it does not satisfy the schema."""
    body = json.loads(_envelope(source))
    model = next(c for c in body["components"] if c["bom-ref"] == "model")
    model["modelCard"] = _model_card(source)
    for component in body["components"]:
        if component["type"] == "data":
            component["data"] = [{"type": "dataset", "name": component["name"]}]
    if source.card is not None:
        body["declarations"] = _declarations(source)
    text = json.dumps(body, indent=2, ensure_ascii=False)
    _validate(text)
    return text


def _envelope(source: BomInput) -> str:
    try:
        from cyclonedx.model import HashAlgorithm, HashType
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise MissingExtraError("cyclonedx-python-lib", "govern") from error

    def component(ref: str, name: str, kind: ComponentType, version: str, digest: str = "") -> Component:
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if len(digest) == 64 else []
        return Component(name=name, type=kind, version=version, bom_ref=ref, hashes=hashes)

    model = component("model", source.name, ComponentType.MACHINE_LEARNING_MODEL, source.version, source.fingerprint)
    parts = [component(f"file:{n}", n, ComponentType.FILE, h[:12], h) for n, h in sorted(source.files.items())]
    parts += [component(f"data:{n}", n, ComponentType.DATA, h[:12], h) for n, h in sorted(source.datasets.items())]
    parts += [component(f"guard:{n}", n, ComponentType.LIBRARY, h[:12], h) for n, h in sorted(source.guards.items())]
    parts += [component(f"package:{n}", n, ComponentType.LIBRARY, v) for n, v in sorted(source.packages.items())]
    if source.parent:
        parts.append(
            component("parent", source.parent[0], ComponentType.MACHINE_LEARNING_MODEL, "parent", source.parent[1])
        )
    bom = Bom(components=[model, *parts])
    bom.register_dependency(model, parts)
    return str(JsonV1Dot6(bom).output_as_string())


def _model_card(source: BomInput) -> Json:
    card: Json = {
        "modelParameters": {
            "task": "text-generation",
            "datasets": [{"ref": f"data:{name}"} for name in sorted(source.datasets)],
        },
        "quantitativeAnalysis": {"performanceMetrics": [_metric(m) for m in source.measurements if m.measured]},
    }
    if source.architecture:
        card["modelParameters"]["modelArchitecture"] = source.architecture
    if source.decision:
        limits = [g.verdict.reason for g in source.decision.gates if g.subject == source.fingerprint]
        card["considerations"] = {"technicalLimitations": limits}
    return card


def _metric(m: Measurement) -> Json:
    row: Json = {"type": m.metric, "value": f"{m.estimate:.6g}"}
    if m.slice:
        row["slice"] = " ".join(f"{k}={v}" for k, v in m.slice.items())
    if m.low is not None and m.high is not None:
        row["confidenceInterval"] = {"lowerBound": f"{m.low:.6g}", "upperBound": f"{m.high:.6g}"}
    return row


def _declarations(source: BomInput) -> Json:
    assert source.card is not None
    claims = [c for s in source.card.sections for c in s.claims if c.records]
    evidence = [
        {"bom-ref": f"record:{r}", "propertyName": "fivefold:record", "description": f"evidence record {r}"}
        for r in source.card.records()
    ]
    return {
        "targets": {"components": [{"type": "machine-learning-model", "name": source.name, "bom-ref": "target"}]},
        "claims": [
            {
                "bom-ref": f"claim:{i}",
                "target": "target",
                "predicate": claim.text,
                "evidence": [f"record:{r}" for r in dict.fromkeys(claim.records)],
            }
            for i, claim in enumerate(claims)
        ],
        "evidence": evidence,
    }


def _validate(text: str) -> None:
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    except MissingOptionalDependencyException as error:
        raise MissingExtraError("cyclonedx-python-lib[json-validation]", "govern") from error
    if problem is not None:
        raise FivefoldError("the bill of materials does not satisfy CycloneDX 1.6", got=str(problem)[:500])
