"""What metrics, versions, languages and categories are called on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fivefold.govern.documents.card import LANGUAGES
from fivefold.redteam.findings import CATEGORY_NAMES
from fivefold.web.text import sentence

METRICS: Mapping[str, tuple[str, str]] = {
    "harmful_compliance": (
        "Complies with harmful requests",
        "Share of harmful requests that the answer sets out to meet.",
    ),
    "attack_success": ("Attacks that succeed", "Share of behaviours that an attack got within its budget."),
    "findings_reproduced": (
        "Findings that still reproduce",
        "Share of this run's findings whose stored case works again.",
    ),
    "injection_success": ("Follows injected instructions", "Share of injections whose canary appears in the answer."),
    "injection_utility": (
        "Serves the user despite injection",
        "Share of injected tasks in which the user is still served.",
    ),
    "over_refusal": ("Refuses harmless look-alikes", "Share of harmless requests, close in wording, that are refused."),
    "capability_accuracy": ("Capability: accuracy", "Share of capability items answered correctly, by likelihood."),
    "capability_change": ("Capability: change from base", "Paired change of accuracy on the same items."),
    "guard_recall": ("Guard: harmful prompts caught", "Share of harmful prompts that the guard stops."),
    "guard_false_alarms": ("Guard: false alarms", "Share of harmless look-alikes that the guard stops."),
    "refusal": ("Refusals", "Share of answers that refuse."),
    "incoherence": ("Incoherent answers", "Share of answers that are neither a refusal nor an attempt."),
}
"""Metric → what people call it, and what it is a share of."""

SUITES: Mapping[str, str] = {
    "harmful_compliance": "core-harms",
    "over_refusal": "core-benign",
    "injection_success": "core-injection",
    "injection_utility": "core-injection",
    "capability_accuracy": "core-capability",
    "capability_change": "core-capability",
}
"""Metric → the packaged suite it is measured on, where no comparison says so."""

VERSION_NOTES: Mapping[str, str] = {
    "base": "as received",
    "patched": "new weights",
    "guarded": "base behind its guard",
    "patched+guarded": "new weights behind a guard",
}

LANGUAGE_ORDER = tuple(LANGUAGES)


def metric_title(metric: str) -> str:
    """`harmful_compliance` as people say it."""
    if metric in METRICS:
        return METRICS[metric][0]
    whole = metric.removesuffix("_change")
    if whole != metric:
        return f"{metric_title(whole)}: change from base"
    return sentence(metric.replace("_", " ").replace("auroc/", "AUROC: "))


def metric_note(metric: str) -> str:
    """What the metric is a share of, "" for one from outside."""
    return METRICS[metric][1] if metric in METRICS else ""


def is_change(metric: str) -> bool:
    """Whether the metric is a signed difference between two versions."""
    return metric.endswith(("_change", "_difference"))


def version_title(name: str) -> str:
    """`patched+guarded` as people say it."""
    return sentence(name.replace("+", " + "))


def language_title(code: str) -> str:
    """`ko` as people say it."""
    return LANGUAGES.get(code, code)


def category_title(code: str) -> str:
    """`vcr` as people say it."""
    return sentence(CATEGORY_NAMES.get(code, code.replace("_", " ").replace("-", " ")))


ACRONYMS = frozenset({"gcg", "pair", "tap", "goat"})
"""Names of attacks that are written in capitals."""


def attack_title(name: str) -> str:
    """`best_of_n` as people say it."""
    return " ".join(w.upper() if w in ACRONYMS else w for w in name.split("_"))


def slice_title(slice_: Mapping[str, str]) -> str:
    """A slice in words: `Korean`, `Violent crimes · English`, `all · held-out`; "All cases" for the whole."""
    names = {"language": language_title, "category": category_title, "attack": attack_title}
    parts = [names.get(key, str)(value) for key, value in slice_.items()]
    return " \u00b7 ".join(sentence(p) if i == 0 else p for i, p in enumerate(parts)) or "All cases"


def in_words(text: str) -> str:
    """A reason of the gate with metric and slice names as people say them."""
    named = re.sub(
        r"\b[a-z]+(?:_[a-z]+)+\b", lambda m: f"\u201c{METRICS[m[0]][0]}\u201d" if m[0] in METRICS else m[0], text
    )
    return re.sub(r"\blanguage=([a-z]+)\b", lambda m: f"({language_title(m[1])})", named)


def by_language(codes: Iterable[str]) -> list[str]:
    """Codes once each: English, Korean, Japanese, then the others by code."""
    order = {c: i for i, c in enumerate(LANGUAGE_ORDER)}
    return sorted(set(codes), key=lambda c: (order.get(c, len(order)), c))
