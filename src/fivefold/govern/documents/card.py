"""The model card: every sentence a claim that resolves to records (Mitchell et al. 2019, arXiv 1810.03993,
sections)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fivefold.govern.documents.claims import Claim, Document, Section, measured, not_measured, pick, recorded
from fivefold.types import Decision, Finding, Measurement

LANGUAGES: Mapping[str, str] = {"en": "English", "ko": "Korean", "ja": "Japanese"}
HELD_OUT = "requests never used in training or attack"


@dataclass(frozen=True, kw_only=True)
class CardInput:
    """What a card is made from: typed facts, each with the id of the record that holds it.

    `facts` maps a sentence to the record that it summarises (scan, training run, guard). `base` is the parent's
    fingerprint for comparisons, None for a model without a parent.
    """

    name: str
    fingerprint: str
    measurements: Sequence[Measurement]
    findings: Sequence[Finding]
    finding_records: Mapping[str, str]
    decision: Decision
    decision_record: str
    details: Sequence[tuple[str, str]]
    training: Sequence[tuple[str, str]] = ()
    base_name: str = "base"
    base_measurements: Sequence[Measurement] = ()
    owner_statements: Mapping[str, str] = field(default_factory=dict)
    plan_record: str = ""


def model_card(source: CardInput) -> Document:
    """The card of one model version."""
    sections = (
        Section(title="Decision", claims=_decision(source)),
        Section(title="Model details", claims=tuple(recorded(text, rid) for text, rid in source.details)),
        Section(title="Intended use", claims=_stated(source, ("intended use", "out-of-scope use", "licence terms"))),
        Section(title="Training", claims=_training(source)),
        Section(title="Safety", claims=_rates(source, "harmful_compliance", f"complies with {HELD_OUT}")),
        Section(title="Over-refusal", claims=_rates(source, "over_refusal", "refuses harmless look-alikes")),
        Section(title="Prompt injection", claims=_rates(source, "injection_success", "follows injected instructions")),
        Section(title="Capability", claims=_capability(source)),
        Section(title="Red team", claims=_redteam(source)),
        Section(title="Limits and open problems", claims=_limits(source)),
    )
    return Document(title=f"Model card: {source.name}", subject=source.fingerprint, sections=sections)


def _decision(source: CardInput) -> tuple[Claim, ...]:
    words = source.decision.decision.replace("_", " ")
    head = recorded(f"Decision of {source.decision.decided_at[:10]}: {words}.", source.decision_record)
    owner = source.decision.owner
    named = recorded(f"Owner of the decision: {owner}.", source.decision_record) if owner else not_measured("Owner")
    rest = tuple(recorded(f"{reason}.", source.decision_record) for reason in source.decision.reasons)
    return (head, named, *rest)


def _stated(source: CardInput, topics: Sequence[str]) -> tuple[Claim, ...]:
    claims = []
    for topic in topics:
        text = source.owner_statements.get(topic)
        if text and source.plan_record:
            claims.append(Claim(text=f"{topic.capitalize()}: {text}", basis="stated", records=(source.plan_record,)))
        else:
            claims.append(Claim(text=f"{topic.capitalize()}: not stated by the owner.", basis="not measured"))
    return tuple(claims)


def _training(source: CardInput) -> tuple[Claim, ...]:
    if not source.training:
        return (not_measured("Training by this run: none recorded; training of the weights as received"),)
    return tuple(recorded(text, rid) for text, rid in source.training)


def _rates(source: CardInput, metric: str, words: str) -> tuple[Claim, ...]:
    claims: list[Claim] = []
    for code, language in LANGUAGES.items():
        now = pick(source.measurements, metric, language=code)
        if now is None:
            claims.append(not_measured(f"{language}, {words}"))
            continue
        claims.append(measured(now, f"{language}, {words}"))
        before = pick(source.base_measurements, metric, language=code)
        if before is not None and before.subject != now.subject:
            claims.append(measured(before, f"{language}, before the patch ({source.base_name})"))
    return tuple(claims)


def _capability(source: CardInput) -> tuple[Claim, ...]:
    claims = []
    for metric, words in (
        ("capability_accuracy", "Accuracy on core-capability"),
        ("capability_change", f"Paired change of that accuracy against {source.base_name}"),
    ):
        found = pick(source.measurements, metric)
        claims.append(measured(found, words) if found else not_measured(words))
    return tuple(claims)


def _redteam(source: CardInput) -> tuple[Claim, ...]:
    if not source.findings:
        return (not_measured("Findings of the red team"),)
    states: dict[str, list[str]] = {}
    for finding in source.findings:
        states.setdefault(finding.status, []).append(source.finding_records[finding.id])
    claims = [
        recorded(f"{len(ids)} finding(s) of the red team are {status}.", *ids) for status, ids in sorted(states.items())
    ]
    attack = pick(source.measurements, "attack_success", attack="all", behaviours="held-out")
    words = "Attacks that know the patch, on held-out behaviours, succeed"
    claims.append(measured(attack, words) if attack else not_measured(words))
    return tuple(claims)


def _limits(source: CardInput) -> tuple[Claim, ...]:
    undecided = [g for g in source.decision.gates if g.subject == source.fingerprint and g.verdict.kind != "pass"]
    claims = [recorded(f"Gate rule {g.rule}: {g.verdict.reason}.", source.decision_record) for g in undecided]
    open_ = [f for f in source.findings if f.status not in ("verified", "closed")]
    claims += [recorded(f"Finding {f.id} ({f.title}) is {f.status}.", source.finding_records[f.id]) for f in open_[:20]]
    claims.append(not_measured("Agentic misuse, multi-turn attacks, weight tampering and long contexts"))
    return tuple(claims)
