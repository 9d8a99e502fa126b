"""A constitutional classifier: requests written from the constitution train the text guard; shipped suites measure it.

Three guards are trained alike: on the constitution's authored examples alone, on the synthetic requests alone, and on both;
the last is the one that is left. Each is measured on the test split of `core-harms` against `core-benign`, which nothing
was written from, and the synthetic ones on held-out synthetic requests, too: a difference between the two says how far the
synthetic requests are from real ones. The guard's other training requests (`guard/data/requests.yaml`) are left out, so
that the numbers are the constitution's alone; its lexicon of concepts remains, with weights learnt here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from fivefold.align.data.constitution import Constitution, load_constitution
from fivefold.align.data.datasheet import Datasheet, Origin
from fivefold.align.options import overridden
from fivefold.align.synthetic import Synthetic, SyntheticConfig, authored, synthetic_requests
from fivefold.evaluate.suites import suite
from fivefold.evidence import Store
from fivefold.guard.bench import bench, labelled
from fivefold.guard.guards.text import guard as text_guard
from fivefold.guard.text_model import TextModel
from fivefold.guard.train import TextTraining, train_text
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Model
from fivefold.thread.training_data import case_rows, held_out_suites, prepare
from fivefold.types import Case, Measurement, digest

TRAINING = TextTraining(own_requests=False)
LANGUAGE = "en"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A guard with the requests that it learnt from and what was measured of it."""

    data: str
    model: TextModel
    n: int
    measurements: tuple[Measurement, ...]


def train_constitutional_guard(
    spec: str,
    *,
    constitution: Path | None = None,
    judge: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write requests with the model `spec`, train the guard on them, measure it, and record all of it in the store.

    `judge` checks the labels; `changes` are settings of `SyntheticConfig`. The result has the guard's `path` and
    `digest`, `rows` (training data x held-out AUROC), and the datasheet.
    """
    config = overridden(SyntheticConfig(seed=seed), changes)
    principles, model = load_constitution(constitution), load(spec)
    checker = load(judge) if judge else None
    asked = [model.fingerprint, principles.digest, config, checker.fingerprint if checker else None]
    run = f"guard-{digest(asked)[:8]}"
    held = [text for texts in held_out_suites().values() for _, text in texts]
    made = synthetic_requests(model, principles, config, held_out=held, judge=checker)
    with Store.open() as store:
        folder = out or store.home / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        sheet = _sheet(made, principles, model, checker)
        files = {**sheet.write(folder), "requests": _write_requests(folder, made.cases)}
        guards = [_train(name, cases) for name, cases in _sets(made, principles).items()]
        last = guards[-1]
        path = folder / "guard.safetensors"
        last.model.save(path)
        files["guard"] = path
        kept = {
            name: store.put_artifact(file, name=name, media_type=_media(file), run=run).digest
            for name, file in files.items()
        }
        measured = [store.add_measurement(replace(m, run=run)) for g in guards for m in g.measurements]
    return {
        "run": run,
        "path": str(path),
        "digest": last.model.digest,
        "constitution": f"{principles.name} {principles.version}",
        "written": made.counts,
        "rows": [_row(g) for g in guards],
        "files": {name: str(file) for name, file in files.items()},
        "artifacts": kept,
        "measurements": measured,
        "findings": [],
    }


def _sets(made: Synthetic, constitution: Constitution) -> dict[str, tuple[Case, ...]]:
    """Training sets by name; the last is the guard's. Authored examples are few, so all of them are trained on."""
    examples = tuple(_always_trained(c) for c in authored(constitution))
    return {"authored": examples, "synthetic": made.cases, "authored and synthetic": (*examples, *made.cases)}


def _always_trained(case: Case) -> Case:
    names = (f"{case.behaviour}/{i}" for i in count())
    return next(made for name in names if (made := replace(case, behaviour=name)).split == "train")


def _train(name: str, cases: Sequence[Case]) -> Trained:
    harmful, benign = ([c for c in cases if tag in c.tags] for tag in ("harmful", "benign"))
    model = train_text(harmful, benign, TRAINING).model
    guard = text_guard(model, languages=[LANGUAGE], name=f"text ({name})")
    held = {
        f"{kind}, held out": [[c for c in side if c.split == "test"] for side in sides]
        for kind, sides in {"suites": _suites(), "synthetic": (harmful, benign)}.items()
    }
    found = [
        replace(m, slice={**m.slice, "requests": where, "trained on": name})
        for where, (bad, good) in held.items()
        if bad and good
        for m in bench(guard, labelled(bad, good)).measurements()
        if m.metric != "guard_latency"
    ]
    trained = sum(c.split == "train" for c in cases)
    return Trained(data=name, model=model, n=trained, measurements=tuple(found))


def _suites() -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    harmful, benign = (suite(n).cases(languages=[LANGUAGE], split="test") for n in ("core-harms", "core-benign"))
    return harmful, benign


def _row(trained: Trained) -> dict[str, Any]:
    numbers = {
        f"{m.metric} on {m.slice['requests']}": {"estimate": m.estimate, "low": m.low, "high": m.high, "n": m.n_scored}
        for m in trained.measurements
        if m.metric in ("guard_auroc", "guard_recall", "guard_false_positive_rate")
    }
    return {"trained on": trained.data, "texts": trained.n, **numbers}


def _sheet(made: Synthetic, constitution: Constitution, model: Model, judge: Model | None) -> Datasheet:
    """Written requests were compared with the suites as they were written; what repeated them was dropped."""
    ready = prepare(case_rows(made.cases), policy="drop", kinds=lambda c: f"{c.tags[0]} requests written")
    origin = Origin(
        name=f"{constitution.name} {constitution.version}",
        where="authored examples, from which more were written",
        licence="Apache-2.0" if constitution == load_constitution() else "not stated",
        files={"constitution": constitution.digest},
    )
    checked = f"labels checked by {judge.name}" if judge else "labels as they were asked for, unchecked"
    sheet = ready.sheet("guard", model, [origin], made=f"requests by {model.name}; {checked}")
    return replace(sheet, counts={**made.counts, **sheet.counts})


def _write_requests(folder: Path, cases: Sequence[Case]) -> Path:
    """The written requests, each with its label and the principle that it cites, for the audit."""
    path = folder / "requests.jsonl"
    rows: list[Mapping[str, Any]] = [
        {"id": c.id, "prompt": c.prompt, "language": c.language, "tags": list(c.tags), "metadata": dict(c.metadata)}
        for c in cases
    ]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def _media(path: Path) -> str:
    return "application/x-safetensors" if path.suffix == ".safetensors" else "application/json"
