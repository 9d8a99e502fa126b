"""Instructions hidden in documents, mails and tool results: rules on single sentences, in English, Korean and Japanese.

One sentence of a long document carries the attack, so each is judged alone (whole documents dilute it). Text alone
cannot tell every order to the model from an order that belongs to the document; provenance has to do the rest. What is
found is taken out of the text (default), or the exchange is blocked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias

import yaml

from fivefold.guard.normalise import clip, views
from fivefold.guard.texts import text_of
from fivefold.types import Exchange, Stage, Taxonomy, Verdict, digest, digest_bytes

Reaction: TypeAlias = Literal["redact", "block"]
REMOVED = "[…]"
MAX_SENTENCE = 600
_SENTENCE = re.compile(r"[^.!?\n。！？]*(?:[.!?。！？]+(?=\s|$|[」』”\"'])|[。！？]|\n|$)")

READY = True
"""It needs no artifact and no model."""

TAXONOMY = Taxonomy(
    surface="tool result",
    technique="indirect prompt injection",
    owasp=("LLM01:2025",),
    agentic=("ASI01",),
    atlas=("AML.T0051.001",),
)
"""What it stands against, in the words of the public catalogues."""


class InjectionRules:
    """Rules by kind; a sentence that matches at least `kinds` of them is an instruction to the model."""

    name = "injection_rules"

    def __init__(
        self, reaction: Reaction = "redact", kinds: int = 1, stages: Sequence[Stage] = ("input", "tool_result")
    ) -> None:
        self.reaction, self.kinds = reaction, kinds
        self.stages: frozenset[Stage] = frozenset(stages)

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over the rules and the options."""
        return digest([rules_digest(), self.reaction, self.kinds, sorted(self.stages)])

    def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange; its score is the highest number of kinds that one sentence matches."""
        return [self._check(text_of(exchange)) for exchange in exchanges]

    def _check(self, text: str) -> Verdict:
        found = {s: kinds for s in sentences(text) if len(kinds := matched(s)) >= self.kinds}
        hidden = {
            k for v in views(text)[1:] for s in sentences(v.text) if len(m := matched(s)) >= self.kinds for k in m
        }
        score = float(max((len(k) for k in (*found.values(), hidden)), default=0))
        if not found and not hidden:
            return Verdict(action="allow", guard=self.name, score=score)
        names = ", ".join(sorted({k for kinds in found.values() for k in kinds} | hidden))
        block = self.reaction == "block" or not found
        return Verdict(
            action="block" if block else "redact",
            guard=self.name,
            reason=f"instruction in the text: {names}",
            score=score,
            replacement=None if block else without(text, list(found)),
        )


def sentences(text: str) -> list[str]:
    """The sentences of a text, no longer than MAX_SENTENCE characters each."""
    found = [m[0].strip() for m in _SENTENCE.finditer(clip(text))]
    return [s[i : i + MAX_SENTENCE] for s in found if s for i in range(0, len(s), MAX_SENTENCE)]


def matched(sentence: str) -> list[str]:
    """Kinds of rule that a sentence matches."""
    return [kind for kind, pattern in rules().items() if pattern.search(sentence)]


def without(text: str, found: Sequence[str]) -> str:
    """The text with these sentences replaced by a mark."""
    for sentence in found:
        text = text.replace(sentence, REMOVED)
    return text


@cache
def rules() -> dict[str, re.Pattern[str]]:
    """One pattern per kind, over all languages."""
    kinds = yaml.safe_load(_bytes())
    return {
        k: re.compile("|".join(f"(?:{p})" for ps in langs.values() for p in ps), re.I) for k, langs in kinds.items()
    }


@cache
def rules_digest() -> str:
    """SHA-256 of the rules."""
    return digest_bytes(_bytes())


def _bytes() -> bytes:
    return (files("fivefold.guard") / "data" / "injections.yaml").read_bytes()


def guard(
    reaction: Reaction = "redact", kinds: int = 1, stages: Sequence[Stage] = ("input", "tool_result")
) -> InjectionRules:
    """`reaction`: take the sentences out, or block. `kinds`: how many kinds of sign one sentence must show."""
    return InjectionRules(reaction, kinds, stages)
