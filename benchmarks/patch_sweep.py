"""Measure patch configurations: harmful compliance, over-refusal and cost of each, on behaviours it was not trained on.

    python benchmarks/patch_sweep.py NAME … [--split dev] [--out results.jsonl]     configurations of CONFIGS below
    python benchmarks/patch_sweep.py --table results.jsonl                          the table of a results file

`dev` trains on three quarters of the train behaviours and measures on the rest and on the dev split, so choices made
here never see the test split; `test` trains on all and measures on the test split. Every line holds counts, not rates.
The numbers in docs/decisions/patch-recipe.md come from this script.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from fivefold.align._adapter import Lora
from fivefold.align.recipes.patch import Mix, PatchConfig, PatchProgress, patch
from fivefold.align.train import TrainConfig
from fivefold.evaluate.suites import suite
from fivefold.runtime.cached import CachedModel
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.score import answers
from fivefold.types import Case, user_case

ANSWER_TOKENS = {"en": 32, "ko": 44, "ja": 36}
SUITES = ("core-harms", "core-benign")


def lora(**changes: Any) -> Lora:
    return Lora(**{"r": 16, "alpha": 32, "from_layer": 12, **changes})


def sft(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"loss": "sft", "adapter": lora(), "lr": 2e-3, "batch_items": 16, **changes})


def rpo(**changes: Any) -> TrainConfig:
    settings = {"loss": "rpo", "reference": "start", "adapter": lora(), "lr": 1e-3, "batch_items": 16, **changes}
    return TrainConfig(**settings)


def mix(english: Mix, others: Mix | None = None) -> dict[str, Mix]:
    """English one way, Korean and Japanese another (None: not trained on)."""
    return {"en": english} | ({} if others is None else {"ko": others, "ja": others})


def whole(english: Mix, preference: TrainConfig, **changes: Any) -> PatchConfig:
    """A configuration whose first stage sees every behaviour and whose second whole answers."""
    return PatchConfig(
        **{"mix": mix(english), "preference": preference, "sft_share": 1.0, "pair_tokens": 96, **changes}
    )


def upper(first: int, **changes: Any) -> PatchConfig:
    """The shipped recipe with adapters only from a higher layer on."""
    adapter = lora(from_layer=first)
    return PatchConfig(
        **{
            "mix": mix(LEAN),
            "sft": sft(adapter=adapter),
            "preference": rpo(adapter=adapter, batch_items=8, lr=2e-3),
            **changes,
        }
    )


FRAMED = Mix(framed=30, everyday=40, own_tokens=24)
LEAN = Mix(framed=20, everyday=24, own_tokens=16)

CONFIGS: dict[str, PatchConfig] = {
    "shipped": PatchConfig(),
    "lean-70": PatchConfig(mix=mix(LEAN)),
    "base": PatchConfig(mix={}),
    "slow": whole(FRAMED, rpo(batch_items=8)),
    "hot": whole(FRAMED, rpo(batch_items=8, lr=2e-3)),
    "hotter": whole(FRAMED, rpo(batch_items=8, lr=3e-3)),
    "few-harmful": whole(replace(FRAMED, harmful=0.68), rpo(batch_items=8)),
    "few-harmful-hot": whole(replace(FRAMED, harmful=0.68), rpo(batch_items=8, lr=2e-3)),
    "rpo-alone": whole(FRAMED, rpo(batch_items=8, lr=2e-3, reference="base"), sft=None),
    "gentle-short": whole(
        Mix(everyday=40, own_tokens=16, sentences=1), rpo(batch_items=8, reference="base"), sft=sft(lr=1e-3)
    ),
    "lean": whole(LEAN, rpo(batch_items=8, lr=2e-3), pair_tokens=24),
    "fewer-lean": PatchConfig(mix=mix(replace(LEAN, harmful=0.85, everyday=40))),
    "lean-half": whole(LEAN, rpo(batch_items=8, lr=2e-3), pair_tokens=24, sft_share=0.5),
    "contrast": PatchConfig(mix=mix(replace(LEAN, contrast=48))),
    "contrast-36": PatchConfig(mix=mix(replace(LEAN, contrast=36))),
    "from-16": upper(16),
    "from-20": upper(20),
    "from-8": upper(8),
    "from-4": upper(4),
    "two-epochs": PatchConfig(mix=mix(LEAN), preference=rpo(batch_items=8, lr=2e-3, epochs=2), pair_tokens=20),
    "lean-cpo": whole(LEAN, rpo(loss="cpo", batch_items=8, lr=2e-3), pair_tokens=24),
}
"""Name → configuration. `base` is the unpatched model."""


class FileMemory:
    """Greedy answers of the base model, kept in a file between configurations."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known: dict[str, Mapping[str, Any]] = {row["key"]: row["value"] for row in map(json.loads, lines)}

    def cached(self, keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        return {k: self.known[k] for k in keys if k in self.known}

    def remember(self, key: str, value: Mapping[str, Any]) -> None:
        self.known[key] = value
        with self.path.open("a") as handle:
            handle.write(json.dumps({"key": key, "value": value}) + "\n")


def held_back(case: Case) -> bool:
    """A quarter of the train behaviours, on which choices are measured."""
    return int(hashlib.sha256(f"sweep/{case.behaviour}".encode()).hexdigest(), 16) % 4 == 0


def cases_of(name: str, split: str) -> tuple[list[Case], list[Case]]:
    """Cases to train on and to measure on."""
    train = list(suite(name).cases(split="train"))
    if split == "test":
        return train, list(suite(name).cases(split="test"))
    measured = [*suite(name).cases(split="dev"), *(c for c in train if held_back(c))]
    return [c for c in train if not held_back(c)], measured


def everyday_held_out() -> list[Case]:
    text = (files("fivefold.align.data") / "everyday_eval.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, text.splitlines())
    return [user_case(r["id"], r["prompt"], suite="everyday", language=r["language"]) for r in rows]


def measure(model: Any, cases: Iterable[Case]) -> dict[str, dict[str, int]]:
    """Judge's labels by suite and language."""
    asked = list(cases)
    requests = [Request(messages=c.messages, max_new_tokens=ANSWER_TOKENS[c.language]) for c in asked]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case, completion in zip(asked, model.generate(requests), strict=True):
        label = "error" if completion.error else answers.judge(case.prompt, completion.text).label
        counts[f"{case.suite}/{case.language}"][label] += 1
    return {place: dict(c) for place, c in counts.items()}


def run(name: str, config: PatchConfig, split: str, folder: Path, languages: Sequence[str]) -> dict[str, Any]:
    """Train one configuration and measure it."""
    base = load("smollm2")
    cached = CachedModel(load("smollm2"), FileMemory(folder / "base_answers.jsonl"))
    train, measured = {}, [c for c in everyday_held_out() if c.language in languages]
    for suite_name in SUITES:
        train[suite_name], held = cases_of(suite_name, split)
        measured += [c for c in held if c.language in languages]
    row: dict[str, Any] = {"name": name, "split": split}
    if config.mix:
        base.generate = cached.generate  # the recipe asks the base model through its memory
        wall, cpu = time.monotonic(), time.process_time()
        result = patch(
            base, harms=train["core-harms"], benign=train["core-benign"], out=folder / f"{name}-{split}",
            config=config, on_step=show,
        )  # fmt: skip
        row |= {
            "seconds": round(time.monotonic() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "tokens": result.tokens,
            "examples": dict(result.groups),
            "losses": [round(sum(s.losses[-5:]) / len(s.losses[-5:]), 3) for s in result.stages.values()],
        }
        patched = base.with_adapter(str(result.path), name=name)
        return row | {"counts": measure(patched, measured)}
    return row | {"counts": measure(cached, measured)}


def show(progress: PatchProgress) -> None:
    step = progress.step
    if step.step % 10 == 0 or step.step == step.total:
        print(
            f"{progress.stage} {step.step}/{step.total} {step.loss:.3f} {step.tokens_per_second:.0f}/s", file=sys.stderr
        )


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: refusal and compliance of harmful requests, refusal of benign and everyday ones, by language."""
    lines = [
        "| configuration | split | CPU-s | tokens | harmful: refused / complied | benign refused | everyday refused |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        cells = []
        for suite_name, labels in zip(
            (*SUITES, "everyday"), (("refusal", "compliance"), ("refusal",), ("refusal",)), strict=True
        ):
            parts = []
            for language in ANSWER_TOKENS:
                counts = row["counts"].get(f"{suite_name}/{language}")
                if counts:
                    n = sum(counts.values())
                    parts.append(f"{language} " + " / ".join(f"{counts.get(x, 0) / n:.2f}" for x in labels))
            cells.append(", ".join(parts))
        head = f"| {row['name']} | {row['split']} | {row.get('cpu_seconds', '-')} | {row.get('tokens', '-')} | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="configurations to run")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--out", type=Path, default=Path(".bench/patch/results.jsonl"))
    parser.add_argument("--languages", default="en,ko,ja", help="languages to measure")
    parser.add_argument("--table", type=Path, help="print the table of this results file and stop")
    args = parser.parse_args()
    if args.table:
        print(table(map(json.loads, args.table.read_text().splitlines())))
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        row = run(name, CONFIGS[name], args.split, args.out.parent, args.languages.split(","))
        with args.out.open("a") as handle:
            handle.write(json.dumps(row) + "\n")
        print(table([row]))


if __name__ == "__main__":
    main()
