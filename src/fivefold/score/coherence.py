"""Does an answer make sense at all? Echoes, loops, broken characters, word salad, and fluent talk about something else.

Two questions with different weight. `broken` finds what no reader would call an answer, whatever its words. `senseless`
is asked only of answers that do not refuse; it weighs how like language the text is and whether it touches the prompt.
Both are lexical: a false but fluent answer is an answer.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from fivefold.types.language import scripts

VERSION = 1

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

_FUNCTION_EN = frozenset(
    """a about above after again against all also am an and any are aren't as at be because been before being below
    between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each even few
    for from further get go had has have having he he's her here here's hers herself him himself his how i i'd i'll i'm
    i've if in into is isn't it it's its itself just let's like make may me might more most must my myself never no nor
    not now of off on once one only or other our ours ourselves out over own same she she's should shouldn't so some
    such than that that's the their theirs them themselves then there there's these they they'll they're this those
    through to too under until up us use very was wasn't way we we'll we're we've were what when where which while who
    whom why will with without won't would wouldn't yes you you'd you'll you're you've your yours yourself yourselves
    first next then many much every it'll that'll""".split()
)
_ENDING_KO = re.compile(
    r"(은|는|이|가|을|를|에|에서|에게|의|와|과|로|으로|도|만|다|요|죠|고|며|면|서|니|지|게|네|까|한|할|된|될|하는|인|들|면서|부터|까지|처럼|보다|라|자|던|기)$"
)


def words(text: str) -> list[str]:
    """Words of Latin or Korean text; single characters of Japanese."""
    found: list[str] = []
    for word in _WORD.findall(text):
        n = scripts(word)
        found += list(word) if n["kana"] + n["han"] > 0 else [word]
    return found


def broken(text: str, prompt: str) -> str:
    """Why the text is no answer (empty, echo, loop, broken characters), or an empty string."""
    n = scripts(text)
    letters = sum(n.values())
    if letters < 2:
        return "empty"
    if "\ufffd" in text or n["other"] > 0.4 * letters:
        return "broken characters or a script that nobody asked for"
    tokens = words(text)
    if _loops(tokens):
        return "a loop"
    if _echo(text, prompt):
        return "an echo of the prompt"
    return ""


def senseless(text: str, prompt: str, language: str, *, n_help: int) -> str:
    """Why an answer that does not refuse makes no sense as an answer to the prompt, or an empty string."""
    tokens = words(text)
    if _salad(text, tokens, language):
        return "word salad"
    return ""


def _loops(tokens: list[str]) -> bool:
    """The same few words again and again: most of the text is repeats of 3-grams, or hardly any word is new."""
    if len(tokens) < 5:
        return False
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    repeated = 1 - len(set(grams)) / len(grams)
    variety = len(set(tokens)) / len(tokens)
    return repeated > 0.4 or variety < 0.35


def _echo(text: str, prompt: str) -> bool:
    """Nearly every 3-gram of characters of the text stands in the prompt."""
    ours, theirs = _grams(text), _grams(prompt)
    if not ours or not theirs:
        return False
    covered = sum(count for gram, count in ours.items() if gram in theirs) / sum(ours.values())
    return covered > 0.85


def _grams(text: str, n: int = 3) -> Counter[str]:
    flat = re.sub(r"[\W_]+", "", text)
    return Counter(flat[i : i + n] for i in range(len(flat) - n + 1))


def _salad(text: str, tokens: list[str], language: str) -> bool:
    if language == "en":
        return len(tokens) >= 4 and sum(t in _FUNCTION_EN for t in tokens) / len(tokens) < 0.2
    if language == "ko":
        return len(tokens) >= 4 and sum(bool(_ENDING_KO.search(t)) for t in tokens) / len(tokens) < 0.3
    return False


@cache
def content_words(text: str) -> frozenset[str]:
    """Words that carry meaning, cut to a stem of five letters (two characters in Korean and Japanese)."""
    out: set[str] = set()
    for word in _WORD.findall(text):
        n = scripts(word)
        if n["latin"]:
            if word not in _FUNCTION_EN and len(word) > 2:
                out.add(word[:5])
        else:
            out.update(word[i : i + 2] for i in range(len(word) - 1))
    return frozenset(out)
