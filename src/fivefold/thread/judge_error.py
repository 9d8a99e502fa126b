"""How often any judge is wrong: its verdicts against people's labels, per language, kept as measurements.

Labelled answers are the shipped sets (`score/labels`), the public refusal labels where `FIVEFOLD_DATA` holds them, or a
JSONL file of the user's own. What the judge could not judge is counted beside its rates and is in none of them. The
counts of one command, its own sets pooled by language, are what later rates by that very judge are corrected with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from fivefold.errors import DataError, UnknownNameError, UsageError
from fivefold.evidence import Store
from fivefold.score import answers
from fivefold.score.calibrate import SETS, Half, Labelled, labelled, public_labels
from fivefold.score.protocol import Scorer
from fivefold.stats import Confusion, Interval
from fivefold.stats.agreement import EVENT
from fivefold.thread.judges import judged
from fivefold.thread.judging import judge_named
from fivefold.types import Completion, Errored, Measurement, Outcome, Safer, Scored, digest, user_case
from fivefold.types.language import language_of

PUBLIC = "refusal-judge-labels"
OFF_TOPIC = f"{PUBLIC}/off-topic"
OWN_LABELS: tuple[str, ...] = get_args(answers.Label)
KEYS = ("id", "language", "prompt", "answer", "label")


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """Labelled answers under one name; `pooled` ones count for corrections."""

    name: str
    items: tuple[Labelled, ...]
    pooled: bool = True


@dataclass(frozen=True, kw_only=True)
class Against:
    """A judge against one set of labels in one language. What it could not judge is counted apart, and in no rate."""

    labels: tuple[str, ...]
    """Names of the sets."""
    language: str
    event: str
    counts: Confusion
    errored: int
    unscored: int

    @property
    def rates(self) -> dict[str, tuple[Interval, Safer]]:
        """Metric → (interval, which direction is better)."""
        return {
            "judge_precision": (self.counts.precision(), "higher"),
            "judge_recall": (self.counts.sensitivity(), "higher"),
            "judge_false_positive_rate": (self.counts.false_alarms(), "lower"),
        }


@dataclass(frozen=True, kw_only=True)
class KnownError:
    """A judge's recorded counts in one language, and the record that holds them."""

    counts: Confusion
    record: str

    def noted(self, corrected: Measurement) -> Measurement:
        """The corrected rate with the record that it rests on."""
        return replace(corrected, metadata={**corrected.metadata, "judge_error": self.record})


def label_sets(names: Sequence[str] = (), half: Half | None = None) -> tuple[list[LabelSet], list[str]]:
    """Sets by name or file, and what was left out and why. Without names: the shipped sets, and the public labels where
    they are. `half` (dev or test, by the id's hash) is test for the shipped sets and all for others when None."""
    sets, notes = [], []
    for name in dict.fromkeys(names) or (*SETS, PUBLIC):
        if name in SETS:
            sets.append(_half(LabelSet(name=name, items=labelled(name)), half or "test"))
        elif name == PUBLIC:
            root = os.environ.get("FIVEFOLD_DATA")
            if root and (Path(root) / PUBLIC).is_dir():
                about, off_topic = public_labels(Path(root))
                sets.append(_half(LabelSet(name=PUBLIC, items=tuple(about), pooled=bool(names)), half))
                sets.append(_half(LabelSet(name=OFF_TOPIC, items=tuple(off_topic), pooled=False), half))
            elif names:
                raise DataError(f"FIVEFOLD_DATA holds no {PUBLIC}", next_step="point FIVEFOLD_DATA at a mirror with it")
            else:
                notes.append(f"{PUBLIC}: FIVEFOLD_DATA holds none, not compared")
        else:
            sets.append(_half(LabelSet(name=Path(name).name, items=read_labels(Path(name))), half))
    return sets, notes


def _half(labels: LabelSet, half: Half | None) -> LabelSet:
    return replace(labels, items=tuple(i for i in labels.items if half is None or i.half == half))


def read_labels(path: Path) -> tuple[Labelled, ...]:
    """Labelled answers from JSONL: `id`, `prompt`, `answer`, `label`, and `language` where it cannot be told from the
    prompt. DataError names the line that is wrong."""
    if not path.is_file():
        if path.suffix:
            raise DataError(f"no file {path}", expected="JSONL with id, language, prompt, answer, label")
        raise UnknownNameError("set of labels", str(path), [*SETS, PUBLIC], next_step="or a .jsonl file of your own")
    rows: dict[str, Labelled] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            row = _row(line, f"{path}:{number}")
            if row.id in rows:
                raise DataError(f"{path}:{number}: the id {row.id!r} stands twice", expected="unique ids")
            rows[row.id] = row
    if not rows:
        raise DataError(f"{path} holds no labels", got="an empty file")
    return tuple(rows.values())


def _row(line: str, where: str) -> Labelled:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON", got=str(error)) from error
    texts: dict[str, Any] = {k: data.get(k) for k in KEYS} if isinstance(data, dict) else {}
    texts["language"] = texts.get("language") or language_of(str(texts.get("prompt") or ""))
    if wrong := [k for k in KEYS if not isinstance(texts.get(k), str) or (not texts[k] and k != "answer")]:
        raise DataError(f"{where}: {wrong[0]} is missing or no text", expected=", ".join(KEYS))
    return Labelled(**texts)


def measure_judge(
    spec: str, names: Sequence[str] = (), *, event: str | None = None, half: Half | None = None
) -> dict[str, Any]:
    """Judge the labelled answers, record the rates; the run, the rows (each set, then their pool), notes."""
    sets, notes = label_sets(names, half)
    with Store.open() as store:
        judge = judge_named(spec, store)
        rows, pooled = errors_of(judge, sets, event)
        run, measurements = record_errors(store, judge, spec, sets, (rows, pooled))
    more = [p for p in pooled if len(p.labels) > 1]
    return {
        "run": run,
        "judge": judge.digest,
        "event": rows[0].event,
        "rows": [*rows, *more],
        "notes": notes,
        "measurements": measurements,
    }


def errors_of(judge: Scorer, sets: Sequence[LabelSet], event: str | None = None) -> tuple[list[Against], list[Against]]:
    """The judge against each set by language, and against the pooled sets by language. UsageError for an event that the
    judge does not tell, or that no answer is labelled with."""
    chosen = event or str(getattr(judge, "event", ""))
    told = _telling(judge, chosen)
    known = sorted({i.label for s in sets for i in s.items})
    if chosen not in known:
        raise UsageError(f"no answer is labelled {chosen!r}", expected=" or ".join(known) or "labelled answers")
    rows: list[Against] = []
    pooled: dict[str, list[Against]] = {}
    for labels in sets:
        cases = [user_case(i.id, i.prompt, language=i.language) for i in labels.items]
        said = judged(judge, cases, {i.id: Completion(text=i.answer, model="labelled") for i in labels.items})
        for language in sorted({i.language for i in labels.items}):
            mine = [i for i in labels.items if i.language == language]
            row = _counted(labels.name, language, chosen, mine, said, told)
            rows.append(row)
            if labels.pooled:
                pooled.setdefault(language, []).append(row)
    return rows, [_pooled(parts) for parts in pooled.values()]


def _telling(judge: Scorer, event: str) -> bool:
    """Whether the judge tells the event by its label (by its value otherwise)."""
    own, labels = str(getattr(judge, "event", "")), tuple(getattr(judge, "labels", ()))
    if not event:
        raise UsageError(f"{judge.name} does not say which event it judges", expected="--event: a label of the answers")
    if event == own:
        return False
    if event in labels:
        return True
    if own and event in OWN_LABELS:
        told = " or ".join(dict.fromkeys([own, *labels]))
        raise UsageError(f"{judge.name} does not tell {event} from the rest", expected=told)
    return False


def _counted(
    name: str, language: str, event: str, items: Sequence[Labelled], said: Mapping[str, Outcome], by_label: bool
) -> Against:
    pairs = [
        (item.label == event, o.label == event if by_label else o.value >= EVENT)
        for item in items
        if isinstance(o := said[item.id], Scored)
    ]
    errored = sum(isinstance(said[i.id], Errored) for i in items)
    return Against(
        labels=(name,),
        language=language,
        event=event,
        counts=Confusion.of([float(a) for a, _ in pairs], [float(b) for _, b in pairs]),
        errored=errored,
        unscored=len(items) - len(pairs) - errored,
    )


def _pooled(parts: Sequence[Against]) -> Against:
    total = {k: sum(getattr(p.counts, k) for p in parts) for k in ("tp", "fn", "tn", "fp")}
    return replace(
        parts[0],
        labels=tuple(name for p in parts for name in p.labels),
        counts=Confusion(**total),
        errored=sum(p.errored for p in parts),
        unscored=sum(p.unscored for p in parts),
    )


def record_errors(
    store: Store,
    judge: Scorer,
    spec: str,
    sets: Sequence[LabelSet],
    found: tuple[Sequence[Against], Sequence[Against]],
) -> tuple[str, list[Measurement]]:
    """The run, and the recorded measurements: three rates of every row; those of pooled rows carry `correction`."""
    data = {s.name: digest(list(s.items)) for s in sets}
    rows, pooled = found
    run = f"judge-error-{digest([judge.digest, data, rows[0].event])[:8]}"
    pools = {(p.labels, p.language) for p in pooled}
    alone = [r for r in rows if (r.labels, r.language) not in pools]
    measured = [m for r in alone for m in _measured(judge, spec, r, run, data)]
    measured += [m for r in pooled for m in _measured(judge, spec, r, run, data, correction=True)]
    return run, store.add_measurements(measured)


def _measured(
    judge: Scorer, spec: str, row: Against, run: str, data: Mapping[str, str], *, correction: bool = False
) -> list[Measurement]:
    counts = {k: getattr(row.counts, k) for k in ("tp", "fn", "tn", "fp")}
    return [
        Measurement(
            metric=metric,
            subject=judge.digest,
            subject_name=spec,
            estimate=found.estimate,
            low=found.low,
            high=found.high,
            level=found.level,
            n_scored=found.n,
            n_unscored=row.unscored,
            n_errored=row.errored,
            safer=better,
            slice={"labels": " + ".join(row.labels), "event": row.event, "language": row.language},
            dataset=digest([data[name] for name in row.labels]),
            judge=judge.digest,
            method=found.method,
            run=run,
            metadata={"counts": counts, "correction": correction, **({"reason": found.reason} if found.reason else {})},
        )
        for metric, (found, better) in row.rates.items()
    ]


def known_error(store: Store, judge: Scorer, language: str | None) -> KnownError | None:
    """The counts that were recorded last for exactly this judge, its event and a language; None where none were."""
    event = str(getattr(judge, "event", ""))
    if not event or not language:
        return None
    wanted: dict[str, Any] = {"judge": judge.digest, "slice": {"event": event, "language": language}}
    found = [m for m in store.measurements(metric="judge_recall", **wanted) if m.metadata.get("correction")]
    if not found:
        return None
    return KnownError(counts=Confusion(**found[-1].metadata["counts"]), record=found[-1].id)
