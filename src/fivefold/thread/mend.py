"""The patch and guard steps: a new version of the weights, and guards whose probe comes from the interpret step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace as dataclass_replace
from typing import Any

from fivefold.align.data.datasheet import Check, Origin
from fivefold.align.data.sources import everyday as everyday_cases
from fivefold.align.recipes.patch import Mix, PatchConfig, PatchResult, patch
from fivefold.errors import UnknownNameError
from fivefold.evaluate.suites import suite
from fivefold.guard.guards.probe import guard as probe_guard
from fivefold.guard.guards.text import guard as text_guard
from fivefold.guard.guards.unicode import guard as unicode_guard
from fivefold.guard.protocol import Guard
from fivefold.guard.stack import GuardedModel, GuardStack
from fivefold.guard.train import TextTraining, train_text
from fivefold.interpret.artifacts import ProbeArtifact
from fivefold.redteam.attacks.gcg import DirectionPenalty
from fivefold.runtime.protocol import Capability, Cost, Request, require
from fivefold.stats import measure_rate
from fivefold.thread.context import Context
from fivefold.thread.findings import findings_of, mark_patched
from fivefold.thread.patch_data import patch_data
from fivefold.thread.plan import GuardPlan, PatchPlan, Plan
from fivefold.thread.steps import Result, Step, code_digest
from fivefold.thread.training_data import shipped_origin
from fivefold.types import Case, Finding, ModelVersion, Outcome, Scored, digest

LANGUAGES = ("en", "ko", "ja")
TRAIN_BEHAVIOURS = 117


def run_patch(ctx: Context) -> Result:
    """Train an adapter from the findings and the train split; the patched model is a new version."""
    part = ctx.plan.patch
    assert part is not None
    began = time.monotonic()
    require(ctx.model("base"), Capability.ADAPTERS, Capability.GRADIENTS, for_="patching the weights")
    model = ctx.whitebox("base")
    config = patch_config(part, ctx.plan.seed)
    harms, benign = train_cases("core-harms"), train_cases("core-benign")
    found = finding_cases(findings_of(ctx))
    data = patch_data([*harms, *found], benign, config, policy="drop", alike=True)
    origins = [shipped_origin("core-harms", harms), shipped_origin("core-benign", benign), findings_origin(ctx, found)]
    sheet = data.sheet(model, origins, config)
    written = sheet.write(ctx.folder / "patch")
    result = patch(
        model,
        harms=data.harms,
        benign=data.benign,
        held_out=[*held_out("core-harms"), *held_out("core-benign")],
        out=ctx.folder / "patch",
        config=config,
        on_step=lambda seen: ctx.progress.advance(
            seen.step.step, seen.step.total, f"{seen.stage} {seen.step.loss:.2f}"
        ),
    )
    adapter = ctx.store.put_artifact(result.path, name="patch-adapter", media_type="application/x-peft", run=ctx.run)
    kept = ctx.store.put_artifact(
        written["datasheet"], name="patch-datasheet", media_type="application/json", run=ctx.run
    )
    record = ctx.store.append_once(
        "training",
        {
            "recipe": part.recipe,
            "adapter": adapter.digest,
            "data": result.data_digest,
            "datasheet": kept.digest,
            "examples": dict(result.groups),
        },
        run=ctx.run,
    )
    name = f"{ctx.plan.model}+patch"
    ctx.results["patch"] = {"adapter": adapter.digest, "name": name}
    patched = ctx.model("patched")
    parent = ctx.model("base").fingerprint
    version = ModelVersion(
        id=patched.fingerprint,
        name=name,
        kind="patched",
        source=ctx.plan.model,
        parent=parent,
        artifacts={"adapter": adapter.digest},
        created_by=ctx.run,
    )
    ctx.record_version(version)
    if not ctx.plan.guard:
        mark_patched(ctx, record.id)
    seconds = sum(stage.seconds for stage in result.stages.values())
    examples = ", ".join(f"{n} {kind}" for kind, n in result.groups.items())
    return {
        **ctx.results["patch"],
        "fingerprint": patched.fingerprint,
        "data": result.data_digest,
        "record": record.id,
        "tokens": result.tokens,
        "tokens_per_second": result.tokens / seconds if seconds else None,
        "sentences": [
            f"Patched from {ctx.plan.model} by LoRA training in {len(result.stages)} stages on {examples}.",
            "Training used behaviours of the train split only; the data's digest is " + result.data_digest[:16] + ".",
            compared(sheet.contamination),
        ],
        "report": {"losses": losses_of(result), "seconds": seconds, "examples": dict(result.groups)},
        "seconds": time.monotonic() - began,
    }


def train_cases(name: str) -> tuple[Case, ...]:
    """The train split of a suite in every language."""
    return suite(name).cases(languages=LANGUAGES, split="train")


def held_out(name: str) -> tuple[Case, ...]:
    """The test split of a suite, on which nothing may be trained."""
    return suite(name).cases(languages=LANGUAGES, split="test")


def compared(check: Check) -> str:
    """What the training data was compared with, as a sentence."""
    dirty = len({f["row"] for f in check.found})
    left = f"{dirty} rows repeated one and were left out" if dirty else "none is repeated"
    return f"The requests trained on were compared with {sum(check.against.values())} held-out cases: {left}."


def findings_origin(ctx: Context, cases: Sequence[Case]) -> Origin:
    """The findings of the run as a source of training data."""
    content = digest([[c.id, c.prompt] for c in cases])
    return Origin(name="findings", where=f"attacks of run {ctx.run}", licence="own", files={"findings": content})


def finding_cases(findings: Sequence[Finding]) -> list[Case]:
    """The stored prompts of findings as training cases: what the attack sent, under the behaviour that it asked for."""
    return [
        Case(
            id=f"finding/{finding.id}/{i}",
            messages=case.messages,
            behaviour=finding.behaviours[0],
            category=finding.category,
            language=finding.language,
        )
        for finding in findings
        if finding.attack != "direct"
        for i, case in enumerate(finding.reproductions)
        if not case.prefill
    ]


def patch_config(part: PatchPlan, seed: int) -> PatchConfig:
    """The recipe's configuration; `share` takes that part of every kind of example in every language."""
    options = dict(part.options)
    share = float(options.pop("share", 1.0))
    if options:
        raise UnknownNameError("patch option", next(iter(options)), ["share"])
    config = PatchConfig(seed=seed)
    if share >= 1.0:
        return config
    return dataclass_replace(config, mix={language: _shared(mix, share) for language, mix in config.mix.items()})


def _shared(mix: Mix, share: float) -> Mix:
    full = TRAIN_BEHAVIOURS if mix.behaviours is None else mix.behaviours

    def part(n: int) -> int:
        return max(2, round(n * share)) if n else 0

    return dataclass_replace(
        mix,
        behaviours=part(full),
        framed=part(mix.framed),
        prefilled=part(mix.prefilled),
        everyday=part(mix.everyday),
    )


def losses_of(result: PatchResult) -> list[dict[str, Any]]:
    """The training curve: step over both stages, loss, and the stage's name."""
    rows, step = [], 0
    for name, stage in result.stages.items():
        for loss in stage.losses:
            step += 1
            rows.append({"step": step, "loss": loss, "stage": name})
    return rows


def run_guard(ctx: Context) -> Result:
    """Build the stack, measure it on dev and held-out prompts, and record the guarded versions."""
    part = ctx.plan.guard
    assert part is not None
    began = time.monotonic()
    languages = {name: list(codes) for name, codes in part.languages.items()}
    found: Result = {"parts": guard_parts(ctx, part), "guards": list(part.guards), "languages": languages}
    ctx.results["guard"] = found
    guarded = ctx.model("guarded")
    assert isinstance(guarded, GuardedModel)
    rows = [measure_guard(ctx, guarded, language) for language in LANGUAGES]
    record = ctx.store.append_once(
        "guard", {**found, "rows": rows, "fingerprint": guarded.stack.fingerprint}, run=ctx.run
    )
    for version in [v for v in ctx.available() if "guarded" in v]:
        model, inner = ctx.model(version), ctx.model("patched" if "patched" in version else "base")
        ctx.record_version(
            ModelVersion(
                id=model.fingerprint,
                name=f"{ctx.plan.model} ({version})",
                kind="guarded",
                source=ctx.plan.model,
                parent=inner.fingerprint,
                artifacts=found["parts"],
                created_by=ctx.run,
            )
        )
    mark_patched(ctx, record.id)
    return {
        **found,
        "record": record.id,
        "fingerprint": guarded.stack.fingerprint,
        "report": {"rows": rows},
        "sentences": [f"Behind {len(part.guards)} guard(s) at run time: {', '.join(part.guards)}."],
        "seconds": time.monotonic() - began,
    }


def guard_parts(ctx: Context, part: GuardPlan) -> dict[str, str]:
    """Artifacts of the guards by name: the interpret step's probe, a text model trained on the train split."""
    parts = {}
    if "probe" in part.guards:
        parts["probe"] = ctx.results["interpret"]["artifacts"]["probe"]
    if "text" in part.guards:
        harmful, benign = (
            [c for c in suite(name).cases(languages=LANGUAGES) if c.split != "test"]
            for name in ("core-harms", "core-benign")
        )
        config = TextTraining(target_fpr=part.target_fpr)
        trained = train_text(harmful, benign, config, everyday=everyday_cases()).model
        kept = ctx.store.put_artifact(
            trained.to_bytes(), name="text-guard.safetensors", media_type="application/x-safetensors", run=ctx.run
        )
        parts["text"] = kept.digest
    return parts


def measure_guard(ctx: Context, guarded: GuardedModel, language: str) -> dict[str, Any]:
    """Recall on held-out harmful prompts and false alarms on their look-alikes, with intervals."""
    row: dict[str, Any] = {"language": language, "guard": "+".join(ctx.results["guard"]["guards"])}
    for name, metric, key in (("core-harms", "guard_recall", "recall"), ("core-benign", "guard_false_alarms", "fpr")):
        cases = suite(name).cases(languages=[language], split="test")
        verdicts = guarded.check_inputs([Request(messages=c.messages) for c in cases])
        outcomes: list[Outcome] = [
            Scored(value=float(v.action == "block"), label=v.action, judge=guarded.stack.fingerprint) for v in verdicts
        ]
        measured = ctx.store.add_measurement(
            measure_rate(
                outcomes,
                metric=metric,
                subject=guarded.fingerprint,
                subject_name="guarded",
                safer="higher" if key == "recall" else "lower",
                slice={"language": language},
                dataset=digest(cases),
                code=code_digest(("guard", "runtime", "stats")),
                judge=guarded.stack.fingerprint,
                run=ctx.run,
            )
        )
        row |= {key: measured.estimate, f"{key}_low": measured.low, f"{key}_high": measured.high, "n": len(cases)}
    return row


def build_stack(ctx: Context, result: Mapping[str, Any]) -> GuardStack:
    """The stack that a guard step describes, cheapest guard first; probes read the base model's activations."""
    guards: list[Guard] = []
    parts, languages = result["parts"], result["languages"]
    if "unicode" in result["guards"]:
        guards.append(unicode_guard())
    if "text" in parts:
        kept = ctx.store.artifact(parts["text"])
        guards.append(text_guard(kept, digest=parts["text"], languages=languages.get("text")))
    if "probe" in parts:
        kept = ctx.store.artifact(parts["probe"])
        guards.append(probe_guard(kept, ctx.whitebox("base"), digest=parts["probe"], languages=languages.get("probe")))
    return GuardStack(guards)


def probe_penalties(ctx: Context) -> list[DirectionPenalty]:
    """What an attacker who knows the guard optimises against: the probe's logit above its English threshold."""
    if "guard" not in ctx.results or "probe" not in ctx.results["guard"]["parts"]:
        return []
    digest_ = ctx.results["guard"]["parts"]["probe"]
    probe = ProbeArtifact.load(ctx.store.artifact(digest_), digest=digest_)
    return [
        DirectionPenalty(
            layer=probe.layer,
            vector=tuple(map(float, probe.weight)),
            bias=probe.bias,
            mean=tuple(map(float, probe.mean)),
            scale=tuple(map(float, probe.scale)),
            position=probe.position,  # type: ignore[arg-type]
            margin=probe.thresholds["en"].value if "en" in probe.thresholds else 0.0,
        )
    ]


def patch_cost(plan: Plan) -> Cost:
    """Training tokens, and the answers that the base model gives to the training prompts."""
    n = 2 * len(suite("core-harms").cases(languages=LANGUAGES, split="train"))
    share = float(plan.patch.options.get("share", 1.0)) if plan.patch else 0.0
    return Cost(
        requests=round(n * share),
        prompt_tokens=round(n * 40 * share),
        completion_tokens=round(n * 24 * share * 0.5),
        train_tokens=round(n * 110 * share),
    )


def guard_cost(plan: Plan) -> Cost:
    """Held-out prompts of both kinds that a probe reads; a text model reads them in no time."""
    if plan.guard is None or "probe" not in plan.guard.guards:
        return Cost()
    languages = plan.guard.languages.get("probe", LANGUAGES)
    n = sum(len(suite(name).cases(languages=languages, split="test")) for name in ("core-harms", "core-benign"))
    return Cost(requests=n, prompt_tokens=n * 40)


def describe_patch(result: Result) -> str:
    """Seconds and examples."""
    return f"{sum(result['report']['examples'].values())} examples, {result['report']['seconds']:.0f} s of training"


def describe_guard(result: Result) -> str:
    """Recall and false alarms by language."""
    return ", ".join(
        f"{r['language']} catches {r['recall']:.0%}, false alarms {r['fpr']:.0%}" for r in result["report"]["rows"]
    )


PATCH = Step(
    name="patch",
    title="Patch the weights",
    needs=("scan", "redteam"),
    code=("runtime", "align", "evaluate"),
    params=lambda plan: plan.patch.model_dump(mode="json") if plan.patch else None,
    cost=patch_cost,
    run=run_patch,
    summary=describe_patch,
)

GUARD = Step(
    name="guard",
    title="Build the guards",
    needs=("interpret", "patch"),
    code=("runtime", "guard", "evaluate", "stats"),
    params=lambda plan: plan.guard.model_dump(mode="json") if plan.guard else None,
    cost=guard_cost,
    run=run_guard,
    summary=describe_guard,
)
