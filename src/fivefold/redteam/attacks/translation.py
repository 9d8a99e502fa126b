"""Translation: the request in another language, the answer translated back before it is judged.

Defensive use: shows in which languages safety training did not arrive. Source: Yong et al. 2023, "Low-Resource Languages
Jailbreak GPT-4" (arXiv 2310.02446): translate, ask, translate back; a success in any of the languages counts. Korean and
Japanese stand beside the paper's low-resource ones.

Deviations: any model translates (the paper: Google Translate); an answer that the judge calls a refusal as it came stays
one, whatever its translation says, and an echo stays an echo. It cannot be made without a translator (`--attacker MODEL`):
templates do not translate. A success needs a translator that is right; the attempt keeps the answer as it came and, in its
metadata, the translation that was judged.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fivefold.errors import UnknownNameError
from fivefold.redteam.attacks._dialogue import instructed, nothing_sent, propose, refused, tokens_of
from fivefold.redteam.attacks._text import request, send, succeeded
from fivefold.redteam.attacks._words import words
from fivefold.redteam.helpers import Helped, as_model, ask
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.score import answers, coherence
from fivefold.types import Case, Completion, Errored, Message, Outcome, Taxonomy

LANGUAGES: Mapping[str, str] = {
    "zu": "Zulu",
    "gd": "Scots Gaelic",
    "hmn": "Hmong",
    "gn": "Guarani",
    "ko": "Korean",
    "ja": "Japanese",
    "th": "Thai",
    "bn": "Bengali",
    "sw": "Swahili",
    "en": "English",
}
"""The paper's low-resource languages first, then Korean, Japanese and three of its middle and high groups."""


@dataclass(frozen=True, kw_only=True)
class Translation(Helped):
    """One query per language."""

    name: ClassVar[str] = "translation"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GENERATE})
    taxonomy: ClassVar[Taxonomy] = attack_taxonomy("translation")

    languages: tuple[str, ...] = ("zu", "gd", "hmn", "gn", "ko", "ja")

    @property
    def lacking(self) -> str:
        """It needs a translator."""
        return "" if self.attacker is not None else "it needs a model that translates, and none was given"

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing: there is no version without a translator."""
        return ()

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt per language until one succeeds."""
        assert self.attacker is not None, self.lacking
        for language in [x for x in self.languages if x != case.language][: budget.queries]:
            talk = _talk(case.prompt, language)
            (proposal,) = propose(self.attacker, [talk], rng, max_new_tokens=300, temperature=0.0)
            if proposal.failure is not None:
                yield nothing_sent(case, self.name, proposal, self.wrote)
                continue
            back: dict[str, Completion] = {}

            def judged(asked: Case, completion: Completion, back: dict[str, Completion] = back) -> Outcome:
                as_it_came = judge(asked, completion)
                if refused(as_it_came) or _says_nothing(completion.text, str(asked.metadata["attack_prompt"])):
                    return as_it_came
                back["it"] = self._back(completion.text, case)
                if back["it"].error is not None:
                    return Errored(error=f"the translator failed: {back['it'].error}")
                return judge(asked, replace(completion, text=back["it"].text))

            note = {"language": language, "attacker": self.wrote}
            asked = [request(case, proposal.prompt, budget)]
            (sent,) = send(case, self.name, target, judged, budget, asked, [note])
            tokens = proposal.tokens + (tokens_of(back["it"]) if back else 0)
            read = {"translated_answer": back["it"].text} if back else {}
            yield replace(sent, helper_tokens=tokens, metadata={**sent.metadata, **read})
            if succeeded(sent):
                return

    def _back(self, answer: str, case: Case) -> Completion:
        assert self.attacker is not None
        (found,) = ask(self.attacker, [_talk(answer, case.language)], seeds=[0], max_new_tokens=400, temperature=0.0)
        return found


def _says_nothing(answer: str, sent: str) -> bool:
    """Whether an answer, in whatever language, is blank or only repeats what was sent: a translator would dress it up."""
    reason = coherence.broken(answers.normal(answer), answers.normal(sent))
    return reason.startswith(("empty", "an echo"))


def _talk(text: str, language: str) -> tuple[Message, ...]:
    system = str(words("attacker")["translate"]).replace("{language}", LANGUAGES.get(language, language))
    return instructed(system, text)


def attack(attacker: Model | str | None = None, languages: Sequence[str] = ()) -> Translation:
    """Translation with an attacker model as translator."""
    for language in languages:
        if language not in LANGUAGES:
            raise UnknownNameError("language", language, LANGUAGES)
    chosen = tuple(languages) or Translation.languages
    return Translation(attacker=as_model(attacker), languages=chosen)
