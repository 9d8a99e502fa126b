"""Does an answer make sense at all? Echoes, loops, broken characters, word salad, and fluent talk about something else.

Questions with different weight. `broken` finds what no reader would call an answer, whatever its words. `salad` and
`unrelated` are asked only of answers that do not refuse: is it like language, and does it touch the prompt?
All are lexical: a false but fluent answer is an answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cache
from itertools import pairwise

from fivefold.types.language import scripts

VERSION = 3

WINDOW = 60
"""Tokens in which variety is looked at: it falls with length in any text."""
SHORT = 80

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

_GLUE = frozenset({"a", "an", "the", "to", "and", "of", "you", "i", "in", "is", "it", "that", "for", "on", "not"})
_JAPANESE_RUN = re.compile(r"[\u30a1-\u30fe]{2,}|[\u4e00-\u9fff]{2,}")

_FUNCTION_EN = frozenset(
    """a about above after again against all also am an and any are aren't as at be because been before being below
    between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each even few
    for from further get go had has have having he he's her here here's hers herself him himself his how i i'd i'll i'm
    i've if in into is isn't it it's its itself just let's like make may me might more most must my myself never no nor
    not now of off on once one only or other our ours ourselves out over own same she she's should shouldn't so some
    such than that that's the their theirs them themselves then there there's these they they'll they're this those
    through to too under until up us use very was wasn't way we we'll we're we've were what when where which while who
    whom why will with without won't would wouldn't yes you you'd you'll you're you've your yours yourself yourselves
    first next then many much every it'll that'll""".split()  # noqa: SIM905 - two hundred quoted words read worse
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
    if not re.search(r"[^\W_]", text):
        return "empty"
    if "\ufffd" in text or _impossible_syllables(text) or scripts(text)["other"] > 0.4 * sum(scripts(text).values()):
        return "broken characters or a script that nobody asked for"
    if _loops(words(text), text):
        return "a loop"
    if echo(text, prompt):
        return "an echo of the prompt"
    return ""


def salad(text: str, language: str, *, helps: bool) -> str:
    """Why the words do not make sentences, or an empty string. `helps`: the text has the shape of an answer."""
    tokens = words(text)
    structured = helps or re.search(r"[,:;=(){}\[\]<>\n]", text) is not None
    if not structured and _lacks_grammar(tokens, language):
        return "word salad"
    if language != "ja" and sum(a == b for a, b in pairwise(tokens)) >= max(2, 0.15 * len(tokens)):
        return "doubled words"
    if _one_piece(text, tokens):
        return "one piece again and again"
    if _circular(text):
        return "a few words turned in circles"
    return ""


def _lacks_grammar(tokens: list[str], language: str) -> bool:
    """Hardly any function words (English) or endings (Korean), or mostly katakana (Japanese, which writes names and
    loan words with it, and broken models everything)."""
    if language == "en":
        return len(tokens) >= 6 and sum(t in _FUNCTION_EN for t in tokens) / len(tokens) < 0.25
    if language == "ja":
        letters = [t for t in tokens if t.isalpha()]
        return len(letters) >= 10 and sum("\u30a1" <= t <= "\u30fe" for t in letters) > 0.45 * len(letters)
    return language == "ko" and len(tokens) >= 4 and sum(bool(_ENDING_KO.search(t)) for t in tokens) / len(tokens) < 0.3


def unrelated(text: str, prompt: str) -> bool:
    """Whether a sentence shares no word that carries meaning with the prompt (or one, in a short English sentence).
    Longer texts are not asked: they may well speak of the matter in words of their own."""
    n, tokens = scripts(text), [t for t in words(text) if t.isalpha()]
    most = {True: 40, False: 24 if n["kana"] else 7}[n["latin"] > 0]
    if not (2 if n["hangul"] else 3) < len(tokens) <= most:
        return False
    shared, due = content_words(text) & content_words(prompt), content_words(prompt)
    return not shared or (len(shared) == 1 and len(due) >= 2 and len(tokens) <= 12 and scripts(text)["latin"] > 0)


def restates(text: str, prompt: str) -> bool:
    """Whether the text is largely made of the prompt's words. For texts that show no sign of help."""
    n = scripts(text)
    return n["latin"] == 0 < n["hangul"] + n["kana"] and len(words(text)) > 3 and _covered(text, prompt) > 0.35


def _impossible_syllables(text: str) -> bool:
    """Hangul syllables that Korean hardly uses (outside the 2,350 of KS X 1001): a sign of broken generation."""
    hangul = re.findall(r"[\uac00-\ud7a3]", text)
    rare = sum(len(c.encode("euc_kr", "replace")) > 2 for c in hangul)
    return rare > 0.03 * len(hangul)


def _loops(tokens: list[str], text: str) -> bool:
    """The same few words again and again: much of the text is repeats of 3-grams, or hardly any word is new."""
    head = re.sub(r"[\W_]+", "", text)[:120]
    if len(head) >= 12 and _repeated([head[i : i + 5] for i in range(len(head) - 4)]) > 0.35:
        return True
    if len(tokens) < 5:
        return False
    repeated = _repeated(list(zip(tokens, tokens[1:], tokens[2:], strict=False)))
    variety = len(set(tokens[:WINDOW])) / len(tokens[:WINDOW])
    return repeated > (0.28 if len(tokens) < SHORT else 0.4) or variety < 0.35


def _repeated(grams: Sequence[Hashable]) -> float:
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def echo(text: str, prompt: str) -> bool:
    """Most 3-grams of characters of the text stand in the prompt, and the text is no short extract from a long one."""
    n = len(re.sub(r"[\W_]+", "", text))
    extract = len(prompt) > 300 and not prompt.startswith(text[:20])
    if extract or n < (15 if scripts(text)["latin"] else 5):
        return False
    return _covered(text, prompt) > 0.7


def _covered(text: str, prompt: str) -> float:
    """Share of the text's 3-grams of characters that stand in the prompt."""
    ours, theirs = _grams(text), _grams(prompt)
    if not ours or not theirs:
        return 0.0
    return sum(count for gram, count in ours.items() if gram in theirs) / sum(ours.values())


def _grams(text: str, n: int = 3) -> Counter[str]:
    flat = re.sub(r"[\W_]+", "", text)
    return Counter(flat[i : i + n] for i in range(len(flat) - n + 1))


def _one_piece(text: str, tokens: list[str]) -> bool:
    """In a short text, one word (in Japanese, one pair of characters) makes up more than a quarter."""
    if scripts(text)["kana"]:
        flat = re.sub(r"[\W_]+", "", text)
        top = Counter(flat[i : i + 2] for i in range(len(flat) - 1)).most_common(1)
        return 8 <= len(flat) <= 80 and top[0][1] >= 4 and 2 * top[0][1] > 0.3 * len(flat)
    common = [n for word, n in Counter(tokens).items() if word not in _GLUE]
    return 6 <= len(tokens) <= 40 and max(common, default=0) >= 4 and max(common) > 0.25 * len(tokens)


def _circular(text: str) -> bool:
    """Of the first thirty words that carry meaning, most are repeats of the others."""
    stems = [stem for word in _WORD.findall(text) for stem in _stems(word)][:30]
    enough = 6 if scripts(text)["latin"] else 4
    return len(stems) >= enough and len(set(stems)) / len(stems) < 0.45


def _stems(word: str) -> list[str]:
    """The parts of a word that carry meaning, without endings: Japanese runs of katakana or kanji, Korean heads."""
    n = scripts(word)
    if n["hangul"]:
        return [word[:2]]
    if n["kana"] or n["han"]:
        return _JAPANESE_RUN.findall(word)
    return [] if word in _FUNCTION_EN or len(word) < 3 else [word[:5]]


@cache
def content_words(text: str) -> frozenset[str]:
    """What carries meaning: stems of Latin and Korean words, kanji, and pairs of katakana."""
    out: set[str] = set()
    for word in _WORD.findall(text):
        n = scripts(word)
        if n["kana"] or n["han"]:
            out.update(re.findall(r"[\u4e00-\u9fff]", word))
            out.update(run[i : i + 2] for run in re.findall(r"[\u30a1-\u30fe]{2,}", word) for i in range(len(run) - 1))
        else:
            out.update(_stems(word))
    return frozenset(out)
