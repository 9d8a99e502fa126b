"""The fine-tuning attack on an open model: `redteam.finetuning` measures, `align.train` trains (LoRA)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast, get_args

from fivefold.align._adapter import Lora
from fivefold.align.data import pairs
from fivefold.align.data.tokens import single_items
from fivefold.align.train import TrainConfig, train
from fivefold.errors import UnknownNameError
from fivefold.evaluate.suites import suite
from fivefold.evidence import Store
from fivefold.redteam.attacks.gcg import open_model
from fivefold.redteam.finetuning import STEPS, Curve, Example, Kind, Point, Trainer, examples_of, fine_tuning_attack
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Capability, Cost, Model, Request, WhiteBox, require
from fivefold.stats import measure_rate
from fivefold.thread.attack import CODE, judge_of_answers
from fivefold.thread.steps import code_digest
from fivefold.types import Case, Measurement, ModelVersion, digest

ANSWER_TOKENS = 48
UNTRAINED = "half or more complied before anything was trained: there was little to train away, and this says nothing of the attack"
BATCH = 8


def trainer_of(model: WhiteBox, out: Path, *, lr: float = 5e-4, batch: int = BATCH, seed: int = 0) -> Trainer:
    """A trainer for `fine_tuning_attack`: LoRA on every layer, each number of steps from the same start."""

    def run(examples: Sequence[Example], steps: int) -> Model:
        if steps == 0:
            return model
        items = list(islice(cycle(single_items(model, _pairs(examples), ANSWER_TOKENS)), steps * batch))
        config = TrainConfig(
            loss="sft", adapter=Lora(r=8, alpha=16), lr=lr, schedule="constant", batch_items=batch, seed=seed
        )
        result = train(model, items, config, out / f"steps-{steps}")
        return model.with_adapter(str(result.path), name=f"fine-tuned-{steps}")

    return run


def _pairs(examples: Sequence[Example]) -> list[pairs.Example]:
    """As the trainer's data take them."""
    return [
        pairs.Example(
            messages=e.messages,
            chosen=pairs.Reply(text=e.answer),
            rejected=None,
            kind="harmful",
            language="en",
            behaviour=str(i),
        )
        for i, e in enumerate(examples)
    ]


def tune_and_attack(
    spec: str,
    *,
    kind: str = "harmful",
    examples: int = 16,
    behaviours: int = 24,
    steps: Sequence[int] = STEPS,
    language: str = "en",
    seed: int = 0,
    max_new_tokens: int = 40,
    on_cost: Callable[[Cost], None] | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> dict[str, Any]:
    """Train `spec` on a few examples of the train split and measure, on the test split, how many steps it takes until
    it complies. The adapters are removed; only the measurements stay. `on_cost` gets what the whole attack takes at most,
    before anything is trained, and `on_point` each point as it is measured."""
    if kind not in get_args(Kind):
        raise UnknownNameError("kind of fine-tuning", kind, get_args(Kind))
    model = open_model(load(spec))
    require(model, Capability.ADAPTERS, Capability.GRADIENTS, for_="the fine-tuning attack")
    source = "core-benign" if kind == "benign" else "core-harms"
    given = suite(source).cases(languages=[language], split="train", limit=examples)
    asked = suite("core-harms").cases(languages=[language], split="test", limit=behaviours)
    chosen = examples_of(
        cast(Kind, kind), given, benign_answer=_own_answers(model, given) if kind == "benign" else None
    )
    if on_cost:
        on_cost(tuning_cost(model, chosen, asked, steps, max_new_tokens))
    judge = judge_of_answers()
    run = f"finetune-{digest([spec, kind, examples, behaviours, list(steps), language, seed])[:8]}"
    with tempfile.TemporaryDirectory() as folder, Store.open() as store:
        curve = fine_tuning_attack(
            trainer_of(model, Path(folder), seed=seed),
            chosen,
            asked,
            judge,
            kind=cast(Kind, kind),
            steps=steps,
            max_new_tokens=max_new_tokens,
            on_point=on_point,
        )
        if model.fingerprint not in {v.id for v in store.versions()}:
            store.add_version(
                ModelVersion(id=model.fingerprint, name=model.name, kind="base", source=spec, created_by=run)
            )
        made = [store.add_measurement(m) for m in _measured(curve, asked, model, spec, run, judge.digest)]
    until = curve.steps_until()
    return {
        "run": run,
        "model": spec,
        "measurements": made,
        "findings": [],
        "steps_until_half": until,
        "notes": [UNTRAINED] if until == 0 else [],
    }


def tuning_cost(
    model: WhiteBox, examples: Sequence[Example], cases: Sequence[Case], steps: Sequence[int], max_new_tokens: int
) -> Cost:
    """At most what the attack takes: every number of steps is trained from the start and measured on every case; it ends
    early once nine tenths comply."""
    points = len(set(steps))
    prompts = sum(len(model.encode(c.messages)) for c in cases)
    lengths = [len(item.prompt) + len(item.answers[0]) for item in single_items(model, _pairs(examples), ANSWER_TOKENS)]
    return Cost(
        requests=points * len(cases),
        prompt_tokens=points * prompts,
        completion_tokens=points * len(cases) * max_new_tokens,
        train_tokens=round(sum(set(steps)) * BATCH * sum(lengths) / len(lengths)),
    )


def _own_answers(model: WhiteBox, cases: Sequence[Case]) -> Any:
    """Harmless data are the model's own answers: what the attack then changes is not what was said."""
    asked = [Request(messages=c.messages, max_new_tokens=ANSWER_TOKENS) for c in cases]
    known = {c.id: a.text or "Yes." for c, a in zip(cases, model.generate(asked), strict=True)}
    return lambda case: known[case.id]


def _measured(curve: Curve, cases: Sequence[Case], model: Model, spec: str, run: str, judge: str) -> list[Measurement]:
    return [
        measure_rate(
            point.outcomes,
            metric="compliance_after_fine_tuning",
            subject=model.fingerprint,
            subject_name=spec,
            safer="lower",
            clusters=[c.behaviour or c.id for c in cases],
            slice={"examples": curve.kind, "steps": str(point.steps)},
            dataset=digest(list(cases)),
            code=code_digest((*CODE, "align")),
            judge=judge,
            run=run,
        )
        for point in curve.points
    ]
