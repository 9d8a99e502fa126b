"""Contamination, seen from the text: which cases of a benchmark stand in a corpus, word for word.

A case's text (its last user turn with its options) is cut into overlapping runs of `width` tokens: words, and single
characters in scripts without spaces. A token is covered when a run that holds it is found in the corpus. Canary strings
are found as they are: many benchmarks carry one so that a corpus that holds it gives itself away.

Sources
- Brown et al., "Language Models are Few-Shot Learners", arXiv 2005.14165 (2020), appendix C: 13-grams, lower case,
  without punctuation.
- Touvron et al., "Llama 2", arXiv 2307.09288 (2023), appendix A.6: contamination as the share of tokens covered, so
  that a phrase that many texts share does not make a case dirty.
- Srivastava et al., "Beyond the Imitation Game", arXiv 2206.04615 (2022): canary GUIDs.
"""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.types import Case

WIDTH = 13
COVERED = 0.5
"""Share of a case's tokens from which it counts as standing in the corpus."""
MAX_TEXT = 10_000_000
"""Characters of one text of a corpus that are read at a time."""
MAX_FILE_BYTES = 50_000_000_000

_CJK = "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_CANARY = re.compile(
    r"canary\s+GUID\s+([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})", re.I
)


@dataclass(frozen=True, kw_only=True)
class CaseOverlap:
    """How much of one case a corpus holds, in [0, 1], and the first of its texts that does."""

    id: str
    covered: float
    tokens: int
    where: str


@dataclass(frozen=True, kw_only=True)
class OverlapReport:
    """All cases against a corpus. `dirty` names those covered by at least the threshold; `unread` those too short to be
    told apart from any other text (fewer than `least` tokens): they are not clean, they were not checked."""

    cases: tuple[CaseOverlap, ...]
    dirty: tuple[str, ...]
    unread: tuple[str, ...]
    canaries: tuple[str, ...]
    texts: int
    width: int
    threshold: float


def tokens(text: str) -> list[str]:
    """Words in lower case without punctuation; one token a character in Chinese, Japanese and Korean."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def case_text(case: Case) -> str:
    """What a corpus would have to hold to give the case away: the question and its options."""
    last = str(case.metadata.get("question", "")) or case.prompt.rsplit("\n\n", 1)[-1]
    options = [o for o in case.choices if o not in last and len(o) > 1]
    return "\n".join([last, *options])


def scan(
    cases: Sequence[Case],
    corpus: Iterable[tuple[str, str]],
    *,
    width: int = WIDTH,
    least: int = 8,
    threshold: float = COVERED,
    canaries: Sequence[str] = (),
) -> OverlapReport:
    """Look for `cases` in (where, text) pairs. A case shorter than `width` tokens is looked for whole; one shorter than
    `least` not at all. Of a raw prompt with worked examples the last block alone is looked for."""
    texts = {c.id: tokens(case_text(c)) for c in cases}
    sizes = {id: min(width, len(t)) for id, t in texts.items() if len(t) >= least}
    index: dict[int, dict[int, list[tuple[str, int]]]] = defaultdict(lambda: defaultdict(list))
    for id, size in sizes.items():
        for i, gram in enumerate(_grams(texts[id], size)):
            index[size][gram].append((id, i))
    hits: dict[str, set[int]] = defaultdict(set)
    where: dict[str, str] = {}
    found: dict[str, None] = {}
    count = 0
    for name, text in corpus:
        count += 1
        found |= dict.fromkeys(f"{c} in {name}" for c in (*_CANARY.findall(text), *(c for c in canaries if c in text)))
        _match(tokens(text), name, index, hits, where)
    rows = tuple(_covered(id, texts[id], sizes[id], hits[id], where.get(id, "")) for id in sizes)
    return OverlapReport(
        cases=rows,
        dirty=tuple(r.id for r in rows if r.covered >= threshold),
        unread=tuple(id for id in texts if id not in sizes),
        canaries=tuple(found),
        texts=count,
        width=width,
        threshold=threshold,
    )


def _grams(words: Sequence[str], size: int) -> list[int]:
    return [hash(tuple(words[i : i + size])) for i in range(len(words) - size + 1)]


def _match(
    words: Sequence[str],
    name: str,
    index: dict[int, dict[int, list[tuple[str, int]]]],
    hits: dict[str, set[int]],
    where: dict[str, str],
) -> None:
    for size, known in index.items():
        for gram in _grams(words, size):
            for id, i in known.get(gram, ()):
                hits[id].add(i)
                where.setdefault(id, name)


def _covered(id: str, words: Sequence[str], size: int, starts: set[int], where: str) -> CaseOverlap:
    positions = {i + k for i in starts for k in range(size)}
    return CaseOverlap(id=id, covered=len(positions) / len(words), tokens=len(words), where=where)


def read_corpus(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """(where, text) of files and folders: `.txt` and other text by blocks, `.jsonl` by line (every string in it), either
    also gzipped. A folder is read in the order of its names; links that lead out of it are not followed."""
    files = [f for p in paths for f in (sorted(p.rglob("*")) if p.is_dir() else [p])]
    read = [f for f in files if f.is_file() and not (f.is_symlink() and f not in paths)]
    if not read:
        raise DataError("there is no corpus to scan", got=", ".join(map(str, paths)) or "nothing")
    for file in read:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{file} is too large", expected=f"at most {MAX_FILE_BYTES} bytes")
        yield from _texts(file)


def _texts(file: Path) -> Iterator[tuple[str, str]]:
    opened: Any = gzip.open if file.suffix == ".gz" else open
    lines = ".jsonl" in file.suffixes
    try:
        with opened(file, "rt", encoding="utf-8", errors="replace") as stream:
            if lines:
                for number, line in enumerate(iter(lambda: stream.readline(MAX_TEXT), ""), 1):
                    yield f"{file.name}:{number}", _strings(line)
            else:
                number, tail = 1, ""
                while block := stream.read(MAX_TEXT):
                    yield f"{file.name}#{number}", tail + block
                    number, tail = number + 1, block[-2000:]
    except (OSError, EOFError) as error:
        raise DataError(f"{file} cannot be read", got=error) from error


def _strings(line: str) -> str:
    """Every string of a JSON line, one a line; the line itself where it is no JSON."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    out: list[str] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            out.append(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return "\n".join(reversed(out))
