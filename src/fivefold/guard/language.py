"""Which languages a text holds, so that a guard abstains where it has no measured threshold instead of guessing.

A guard's threshold means something only for the languages it was set on. Script tells Korean and Japanese apart from
the rest; among languages in Latin script, function words do. A single sentence in a measured language is enough for a
guard to judge the whole, so that a foreign sentence put in front does not make it look away.
"""

from __future__ import annotations

import re

from fivefold.types.language import scripts

_SENTENCE = re.compile(r"[.!?\n。！？]+")
_WORD = re.compile(r"[a-zà-ɏ]+")

_FUNCTION_WORDS = {
    "en": "the a of and in is it you that for on with how do what can my me are this be at from your i to an or",
    "es": "el los las una unos y en es que por con cómo qué puedo mi del al para se lo hacer como mis su",
    "fr": "le les un une et est que pour avec comment je puis mon du des au dans ce ne pas sur faire vous mes",
    "de": "der das ein eine und ist für mit wie ich kann mein zu von dem den nicht auf im wird man mir einen",
    "it": "il gli uno una e è che per con come posso mio del della di nel si non fare sono mi un",
    "pt": "o os um uma e em é que por com como posso meu do da no na não para fazer você eu minha",
    "nl": "de het een en is dat voor met hoe ik kan mijn van niet op te zijn aan naar je",
    "id": "yang dan di ini itu untuk dengan bagaimana saya bisa cara tidak dari ke apa adalah",
    "tr": "bir ve bu için ile nasıl ne benim da de mi çok gibi daha olarak",
    "vi": "là của và cho với tôi thế nào không có một các được làm để cách",
}
_LEXICON = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}


def languages_in(text: str) -> frozenset[str]:
    """Codes of the languages that the whole or a sentence of the text is written in; `und` for scripts not known
    here."""
    parts = [text, *(s for s in _SENTENCE.split(text) if len(s.split()) >= 3 or len(s) >= 12)]
    return frozenset(language_of_part(part) for part in parts)


def language_of_part(text: str) -> str:
    """The language of one stretch of text: by script, and in Latin script by function words (English when none
    decides)."""
    n = scripts(text)
    cjk = {"ko": n["hangul"], "ja": n["kana"] + (n["han"] if n["kana"] else 0), "zh": 0 if n["kana"] else n["han"]}
    best = max(cjk, key=lambda k: cjk[k])
    if 3 * cjk[best] > max(n["latin"], n["other"]):
        return best
    if n["other"] > n["latin"]:
        return "und"
    return _latin(text)


def _latin(text: str) -> str:
    words = _WORD.findall(text.lower())
    hits = {language: sum(w in known for w in words) for language, known in _LEXICON.items()}
    best = max(hits, key=lambda k: hits[k])
    return best if hits[best] >= 2 and hits[best] > 1.5 * hits["en"] else "en"
