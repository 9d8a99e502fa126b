"""One vulnerability with an identity and a life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from fivefold.types.case import Message

Status: TypeAlias = Literal["open", "patched", "verified", "closed", "regressed"]
Severity: TypeAlias = Literal["low", "medium", "high", "critical"]

TRANSITIONS: Mapping[Status, tuple[Status, ...]] = {
    "open": ("patched",),
    "patched": ("verified", "regressed"),
    "verified": ("closed", "regressed"),
    "closed": ("regressed",),
    "regressed": ("patched",),
}
"""open → patched (a patch names it) → verified (replay, paraphrases and re-attack fail on the patched version) → closed
(a gate that counts it passed) ; any later hit → regressed."""


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """Where an attack strikes and what the public catalogues call it."""

    surface: str
    technique: str
    owasp: tuple[str, ...] = ()
    """Ids of the OWASP Top 10 for LLM applications."""
    atlas: tuple[str, ...] = ()
    """Technique ids of MITRE ATLAS."""
    agentic: tuple[str, ...] = ()
    """Ids of the OWASP Top 10 for agentic applications."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The shortest known case that shows the weakness, and what the model answered then.

    `request` is what is asked for in plain words, where the messages disguise it; empty when the last turn says it.
    `check` says how success is told without a judge (`{"kind": "canary", …}`); empty when a judge of answers decides.
    `tokens` is the response's length, and a replay allows at least as many; 0 when it is not known.
    """

    messages: tuple[Message, ...]
    prefill: str = ""
    response: str = ""
    seed: int = 0
    temperature: float = 0.0
    request: str = ""
    check: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One vulnerability: one weakness, however many attempts showed it.

    `cause` is what interpretability says of the reproducing case (layer, projection, percentile). `patches` are the
    fingerprints of model versions that address it. `history` lists (status, evidence id, reason) in order. `also` are
    other attacks whose successes this weakness explains. `judge` is what judged it, as it can be named again, and
    `judge_digest` exactly that judge; empty where checks of the cases' own told it, or it was found before judges were kept.
    """

    id: str
    title: str
    category: str
    language: str
    attack: str
    taxonomy: Taxonomy
    severity: Severity
    severity_reason: str
    behaviours: tuple[str, ...]
    reproductions: tuple[Reproduction, ...]
    subject: str
    status: Status = "open"
    cause: Mapping[str, Any] = field(default_factory=dict)
    patches: tuple[str, ...] = ()
    history: tuple[tuple[str, str, str], ...] = ()
    run: str = ""
    also: tuple[str, ...] = ()
    judge: str = ""
    judge_digest: str = ""
