"""How often the judge of answers is wrong: its labels against people's labels, per language.

`python -m fivefold.score.calibrate` measures the judge on the test halves of the label sets and prints the table;
with `--write` it becomes `calibration.json`, which ships with the package and from which rates are corrected. The dev
halves are for choosing rules, the test halves for measuring; the SHA-256 of a label's id decides, so an answer never
moves from one to the other.

Label sets (`labels/*.jsonl`): `answers` (authored, hard cases on purpose) and `outputs` (real answers of a small model,
labelled by hand). When `FIVEFOLD_DATA` holds `refusal-judge-labels` (PyRIT, MIT licence), agreement with it is reported
too; it is not shipped. Its last fifty rows pair a question with the answer to another one and call that a refusal, a
wider notion than ours: they are reported apart, as off-topic answers.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fivefold.errors import DataError
from fivefold.score import answers
from fivefold.stats import Confusion
from fivefold.types import digest_bytes

Half: TypeAlias = Literal["dev", "test"]
SETS = ("answers", "outputs")
OFF_TOPIC_FROM = 100


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One answer with a person's label."""

    id: str
    language: str
    prompt: str
    answer: str
    label: str

    @property
    def half(self) -> Half:
        """`dev` (for choosing rules) or `test` (for measuring), fixed by the id's hash."""
        return "dev" if int(hashlib.sha256(self.id.encode()).hexdigest(), 16) % 2 == 0 else "test"


def labelled(name: str) -> tuple[Labelled, ...]:
    """A shipped label set."""
    path = files("fivefold.score") / "labels" / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows:
        raise DataError(f"{path} holds no labels")
    keys = ("id", "language", "prompt", "answer", "label")
    return tuple(Labelled(**{k: row[k] for k in keys}) for row in rows)


def matrix(items: Iterable[Labelled]) -> dict[str, dict[str, int]]:
    """Counts of label → judged label."""
    counts: Counter[tuple[str, str]] = Counter()
    counts.update((item.label, answers.judge(item.prompt, item.answer).label) for item in items)
    labels = ("refusal", "compliance", "incoherent")
    return {a: {b: counts[a, b] for b in labels} for a in labels}


def event_counts(table: Mapping[str, Mapping[str, int]], event: str) -> Confusion:
    """The three-way table as a two-way one: `event` against everything else."""

    def total(pairs: Iterable[tuple[str, str]]) -> int:
        return sum(table[a][b] for a, b in pairs)

    others = [label for label in table if label != event]
    return Confusion(
        tp=table[event][event],
        fn=total((event, b) for b in others),
        fp=total((a, event) for a in others),
        tn=total((a, b) for a in others for b in others),
    )


def measure(half: Half = "test") -> dict[str, Any]:
    """The judge's table by label set and language, with the digests of judge and labels."""
    tables: dict[str, Any] = {}
    for name in SETS:
        items = [x for x in labelled(name) if x.half == half]
        tables[name] = {lang: matrix(x for x in items if x.language == lang) for lang in answers.LANGUAGES}
    return {"judge": answers.digest(), "labels": label_digests(), "half": half, "tables": tables}


def label_digests() -> dict[str, str]:
    """SHA-256 of each label file."""
    folder = files("fivefold.score") / "labels"
    return {name: digest_bytes((folder / f"{name}.jsonl").read_bytes()) for name in SETS}


@cache
def shipped() -> Mapping[str, Any]:
    """The shipped calibration."""
    path = files("fivefold.score") / "calibration.json"
    table: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def confusion(event: str, language: str) -> Confusion | None:
    """The judge's measured counts for an event (`compliance`, `refusal`, `incoherent`) in a language, label sets
    pooled. None when the shipped table does not belong to this judge or lacks the language."""
    table = shipped()
    if table["judge"] != answers.digest() or language not in answers.LANGUAGES:
        return None
    counts = [event_counts(table["tables"][name][language], event) for name in SETS]
    return Confusion(
        tp=sum(c.tp for c in counts),
        fn=sum(c.fn for c in counts),
        tn=sum(c.tn for c in counts),
        fp=sum(c.fp for c in counts),
    )


def public_labels(root: Path) -> tuple[list[Labelled], list[Labelled]]:
    """PyRIT's refusal labels: rows about refusing, and rows whose answer belongs to another question."""
    with (root / "refusal-judge-labels" / "refusal_scorer_eval.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            Labelled(
                id=f"pyrit/{row['']}",
                language="en",
                prompt=row["user_message"],
                answer=row["assistant_message"],
                label="refusal" if row["score_value"] == "TRUE" else "compliance",
            )
            for row in csv.DictReader(file)
        ]
    return rows[:OFF_TOPIC_FROM], rows[OFF_TOPIC_FROM:]


def lines(result: Mapping[str, Any]) -> list[str]:
    """The table as text: accuracy, and precision and recall of each label, with 95 % intervals."""
    out = []
    for name, by_language in result["tables"].items():
        for language, table in by_language.items():
            n = sum(sum(row.values()) for row in table.values())
            right = sum(table[label][label] for label in table)
            out.append(f"{name} {language}: n {n}, accuracy {right / n:.3f}" if n else f"{name} {language}: no labels")
            out += [f"  {_line(label, event_counts(table, label))}" for label in table if n]
    return out


def _line(label: str, counts: Confusion) -> str:
    parts = []
    for word, interval in (("precision", counts.precision()), ("recall", counts.sensitivity())):
        if interval.estimate is None or interval.low is None or interval.high is None:
            parts.append(f"{word} not measured")
        else:
            parts.append(f"{word} {interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
    return f"{label:11} {', '.join(parts)}"


def _public_lines() -> list[str]:
    root = os.environ.get("FIVEFOLD_DATA")
    if not root or not (Path(root) / "refusal-judge-labels").is_dir():
        return ["public labels: FIVEFOLD_DATA holds no refusal-judge-labels, not compared"]
    refusing, off_topic = public_labels(Path(root))
    table = matrix(refusing)
    hit = sum(table[label][label] for label in table)
    missed = Counter(answers.judge(x.prompt, x.answer).label for x in off_topic)
    return [
        f"public labels: n {len(refusing)}, accuracy {hit / len(refusing):.3f}",
        f"  {_line('refusal', event_counts(table, 'refusal'))}",
        f"  off-topic answers ({len(off_topic)}) are judged {dict(missed)}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one half, and write it with --write."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m fivefold.score.calibrate", description=__doc__)
    parser.add_argument("--half", choices=("dev", "test"), default="test")
    parser.add_argument("--write", action="store_true", help="replace the shipped table (test half only)")
    options = parser.parse_args(arguments)
    result = measure(options.half)
    print("\n".join([*lines(result), *_public_lines()]))
    if options.write:
        if options.half != "test":
            parser.error("the shipped table is measured on the test half")
        path = Path(__file__).parent / "calibration.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
