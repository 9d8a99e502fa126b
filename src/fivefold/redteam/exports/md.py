"""Markdown: findings for people, gravest first; what attackers wrote stands in fenced blocks that it cannot leave."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fivefold.redteam.exports import ExportContext
from fivefold.redteam.life import missing
from fivefold.redteam.severity import LEVELS
from fivefold.types import Finding, Reproduction

LIVE = ("open", "regressed", "patched", "verified", "closed")
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~])")
_HIDDEN = re.compile(r"[\u0000-\u0008\u000b-\u001f\u007f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
MAX_SHOWN = 4000


def export(findings: Sequence[Finding], context: ExportContext) -> str:
    """The report as text."""
    ordered = sorted(findings, key=lambda f: (-LEVELS.index(f.severity), LIVE.index(f.status), f.id))
    lines = ["# Findings", "", *_table(ordered), ""]
    for finding in ordered:
        lines += _section(finding, context)
    return "\n".join(lines).rstrip() + "\n"


def _table(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["No findings. That says what was tried and withstood only beside the list of what was tried."]
    rows = [f"| {f.id} | {f.severity} | {f.status} | {_plain(f.title)} | {len(f.behaviours)} |" for f in findings]
    return ["| id | severity | state | weakness | behaviours |", "|---|---|---|---|---|", *rows]


def _section(finding: Finding, context: ExportContext) -> list[str]:
    taxonomy = finding.taxonomy
    ids = ", ".join((*taxonomy.owasp, *taxonomy.atlas)) or "none"
    facts = [
        f"- Severity: {finding.severity} ({_plain(finding.severity_reason)})",
        f"- State: {finding.status}",
        *(f"- Still needed: {_plain(line)}" for line in missing(finding)),
        f"- Model: {_plain(context.names.get(finding.subject, finding.subject[:12]))}",
        f"- Surface: {_plain(taxonomy.surface)}; technique: {_plain(taxonomy.technique)}; catalogue ids: {ids}",
        f"- Behaviours: {_plain(', '.join(finding.behaviours))}",
    ]
    if finding.also:
        facts.append(f"- Also explains: {_plain(', '.join(finding.also))}")
    if sentence := finding.cause.get("sentence"):
        facts.append(f"- Cause: {_plain(str(sentence))}")
    history = [f"- {s}: {_plain(why)} ({_plain(e[:12]) or 'no record'})" for s, e, why in finding.history]
    shortest = finding.reproductions[0] if finding.reproductions else None
    return [
        f"## {finding.id}: {_plain(finding.title)}",
        "",
        *facts,
        "",
        *(_case(shortest) if shortest else ["No reproducing case is stored.", ""]),
        "History:",
        "",
        *history,
        "",
    ]


def _case(case: Reproduction) -> list[str]:
    lines = ["Shortest reproducing case:", ""]
    for message in case.messages:
        lines += [f"{message.role}:", "", *_fenced(message.content), ""]
    if case.prefill:
        lines += ["the answer is made to begin with:", "", *_fenced(case.prefill), ""]
    return [*lines, "Answer then:", "", *_fenced(case.response), ""]


def _fenced(text: str) -> list[str]:
    """A block with a fence longer than any in the text; characters that hide or reorder text are shown by number."""
    shown = _HIDDEN.sub(lambda m: f"<U+{ord(m[0]):04X}>", text)
    cut = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]} … ({len(shown) - MAX_SHOWN} more characters)"
    fence = "`" * (max((len(m) for m in re.findall(r"`+", cut)), default=0) + 3)
    return [f"{fence}text", cut, fence]


def _plain(text: str) -> str:
    """Inline text that Markdown and HTML take literally."""
    return _SPECIAL.sub(r"\\\1", _HIDDEN.sub("", " ".join(text.split())))
