"""The contract of a benchmark: a module whose `benchmark()` returns one of these. The file's name is its name.

`cases(**options)` reads the data and makes the cases; its keyword arguments are the benchmark's options. The rest says
how answers are scored and what the number means, so that it is never quoted without.
"""

from __future__ import annotations

import csv
import gzip
import inspect
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fivefold.errors import DataError, UsageError, nearest
from fivefold.evaluate import data
from fivefold.evaluate.data import Source
from fivefold.evaluate.suites import Suite
from fivefold.types import Case, Message, Safer

Area: TypeAlias = Literal["capability", "code", "agents", "safety"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A public data set as cases with a scorer, and everything that its number needs to be understood."""

    title: str
    """What its authors call it."""
    area: Area
    """What kind of thing it measures."""
    cases: Callable[..., list[Case]]
    """Reads the data, checked by hash; keyword arguments are the benchmark's options."""
    scorer: str
    """Name of the registered scorer."""
    metric: str
    """What the rate of the scorer's event is called."""
    safer: Safer
    """Which direction of the metric is safer."""
    source: Source
    """Where the data comes from, with revision, licence and hashes."""
    meaning: str
    """What the score means and what it does not: construct, deviations from the authors' protocol, known weaknesses."""
    citation: str
    """Paper that introduced it."""
    cost: str
    """Number of cases and what they take."""
    max_new_tokens: int = 64
    """Tokens of an answer that is generated."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, where the benchmark's protocol has them."""
    needs: tuple[str, ...] = ()
    """What besides the data: `sandbox` to run the answers' code."""

    def missing(self) -> list[str]:
        """What keeps it from running here, one line each; empty when nothing is known to be missing."""
        lines = data.missing(self.source)
        if "sandbox" in self.needs:
            from fivefold.score import sandbox

            lines += sandbox.missing()
        return lines

    def suite(self, name: str, **options: Any) -> Suite:
        """The benchmark as a suite, which `evaluate` takes. UsageError for an option that it does not have."""
        known = list(inspect.signature(self.cases).parameters)
        for option in options:
            if option not in known:
                near = nearest(option, known, n=1)
                raise UsageError(
                    f"benchmark {name} has no option {option!r}",
                    expected=", ".join(known) or "no options",
                    next_step=f"did you mean {near[0]!r}?" if near else None,
                )
        made = self.cases(**options)
        if not made:
            raise DataError(f"benchmark {name} has no cases with these options", got=options)
        return Suite(
            name=name,
            metric=self.metric,
            scorer=self.scorer,
            safer=self.safer,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            datasheet=self.datasheet(),
            all_cases=tuple(made),
        )

    def datasheet(self) -> str:
        """What one must know of the number, as Markdown."""
        source = self.source
        return (
            f"# {self.title}\n\n{self.meaning}\n\n"
            f"Data: {source.origin}, licence {source.licence}, digest {source.digest}.\n"
            f"Cost: {self.cost}.\nCitation: {self.citation}\n"
        )


def read_json(source: Source, file: str) -> Any:
    """A JSON file of the data set."""
    return _parsed(source, file, json.loads, data.read(source, file))


def read_jsonl(source: Source, file: str) -> list[Any]:
    """One value a line; a name that ends in `.gz` is unpacked."""
    raw = data.read(source, file)
    text = gzip.decompress(raw) if file.endswith(".gz") else raw
    return [_parsed(source, file, json.loads, line) for line in text.splitlines() if line.strip()]


def read_csv(source: Source, file: str) -> list[dict[str, str]]:
    """Rows of a CSV file with a header."""
    text = data.read(source, file).decode("utf-8-sig")
    rows: list[dict[str, str]] = list(csv.DictReader(io.StringIO(text, newline="")))
    return rows


def _parsed(source: Source, file: str, parse: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return parse(raw)
    except ValueError as error:
        raise DataError(f"{source.folder}/{file} cannot be read", got=error) from error


def turns(*pairs: tuple[str, str], ask: str, system: str = "") -> tuple[Message, ...]:
    """A conversation: worked examples as (question, answer) turns, then what is asked."""
    out = [Message(role="system", content=system)] if system else []
    for question, answer in pairs:
        out += [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return (*out, Message(role="user", content=ask))


def lettered(options: Sequence[str]) -> str:
    """Options one a line, with letters."""
    return "\n".join(f"{LETTERS[i]}. {option}" for i, option in enumerate(options))
