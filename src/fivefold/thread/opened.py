"""`fivefold interpret` and `fivefold align`: single disciplines that need a model's inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fivefold.align._divided import divided
from fivefold.align._processes import Processes, everyone, switched_on
from fivefold.align.data.datasheet import Datasheet
from fivefold.align.options import overridden
from fivefold.align.recipes.patch import OnPatch, PatchConfig, patch
from fivefold.errors import DataError, UnknownNameError, UsageError
from fivefold.evaluate.cases import read_cases
from fivefold.evaluate.suites import suite
from fivefold.evidence import Store
from fivefold.registry import registry
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Capability, Model, WhiteBox, require
from fivefold.thread.mend import LANGUAGES, held_out, train_cases
from fivefold.thread.patch_data import patch_data
from fivefold.thread.trained import kind_of, record_versions
from fivefold.thread.training import RECIPES, identity, recorded, train_with
from fivefold.thread.training_data import file_origin, shipped_origin
from fivefold.thread.training_request import OnStage, Training
from fivefold.types import Case, ModelVersion, digest

DTYPES = ("float32", "bfloat16", "auto")
"""What a model is trained in. float16 would need its losses scaled, which nothing here does."""

OnData = Callable[[Datasheet], None]


def interpret_model(method: str, spec: str, *, limit: int | None, out: Path | None) -> dict[str, Any]:
    """Run one method on the harmful suite against its look-alikes; its artifacts and measurements are recorded."""
    module = registry("method").module(method)
    model = _open_model(spec, "interpretation")
    positive, negative = (suite(n).cases(languages=LANGUAGES, limit=limit) for n in ("core-harms", "core-benign"))
    found = module.method().run(model, positive, negative)
    with Store.open() as store:
        run = f"interpret-{digest([method, model.fingerprint, limit])[:8]}"
        kept = {}
        for name, artifact in found.artifacts.items():
            data = artifact.to_bytes()
            kept[name] = store.put_artifact(
                data, name=f"{name}.safetensors", media_type="application/x-safetensors", run=run
            ).digest
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                (out / f"{name}.safetensors").write_bytes(data)
        measured = [store.add_measurement(type(m)(**{**vars(m), "run": run})) for m in found.measurements]
    return {"run": run, "rows": list(found.table), "artifacts": kept, "measurements": measured, "findings": []}


RECORDS = ("training.json", "reward.json", "reinforcement.json", "process.json")
"""What the trainers call their records."""


def align_model(
    recipe: str,
    spec: str,
    *,
    data: Path | None,
    out: Path | None,
    limit: int | None,
    seed: int,
    changes: Sequence[str] = (),
    contaminated: str = "refuse",
    feedback: str | None = None,
    constitution: Path | None = None,
    reward: Sequence[str] = (),
    gold: Sequence[str] = (),
    start: Path | None = None,
    dtype: str = "float32",
    on_step: OnStage | None = None,
    on_data: OnData | None = None,
) -> dict[str, Any] | None:
    """Train with a recipe; the adapter (or the model, where all weights are trained) is kept as an artifact, and the new
    version is recorded with its parent.

    `contaminated` says what follows when training data repeats held-out cases (`training_data.Policy`); `feedback` and
    `constitution` are the constitutional recipe's. `reward`, `gold` (`align.rewards.named`) and `start`, an adapter of
    the same base to begin from, are GRPO's. Rewards may name Python files, which are run. `dtype` is what the model is
    loaded and trained in; adapters are float32 in every case.

    Started by `accelerate launch` in several processes, all run the recipe and share its work; the first records the result,
    and the others return None.
    """
    together = everyone()
    on_step, on_data = (on_step, on_data) if together.first else (None, None)
    if dtype not in DTYPES:
        raise UsageError(f"models are not trained in {dtype!r} here", expected=" or ".join(DTYPES))
    if recipe not in ("patch", *RECIPES):
        raise UnknownNameError("recipe", recipe, ("patch", *RECIPES))
    if recipe == "patch":
        if feedback or constitution or reward or gold or start:
            raise UsageError("the patch recipe takes no feedback, constitution, reward, gold or start")
        return _align_patch(
            spec,
            dtype=dtype,
            data=data,
            out=out,
            limit=limit,
            seed=seed,
            changes=changes,
            contaminated=contaminated,
            on_step=on_step,
            on_data=on_data,
            together=together,
        )
    ask = Training(
        model=divided(_open_model(spec, "training", dtype), together),
        out=out or Path(),
        data=data,
        limit=limit,
        seed=seed,
        changes=changes,
        contaminated=contaminated,
        feedback=divided(load(feedback), together) if feedback else None,
        constitution=constitution,
        reward=tuple(reward),
        gold=tuple(gold),
        start=start,
        on_step=on_step,
        on_data=on_data,
        together=together,
    )
    model, run = ask.model, identity(recipe, ask)
    with _evidence(together) as (store, home):
        folder = out or home / "runs" / run / recipe
        result = train_with(recipe, replace(ask, out=folder))
        if store is None:
            return None
        version = record_versions(store, model, result.path, spec, recipe, run, result.on)
        kept = [store.add_measurement(m) for m in recorded(result, run)]
        files = {
            name: store.put_artifact(path, name=name, media_type="application/json", run=run).digest
            for name, path in {**training_records(folder), **result.files}.items()
            if path.is_file()
        }
        _record_training(store, recipe, version, files, result.data_digest, run)
    return {
        "run": run,
        kind_of(result.path): str(result.path),
        "version": version.id,
        "parent": version.parent,
        "data": result.data_digest,
        "losses": list(result.losses),
        "sentences": list(result.sentences),
        "rows": list(result.rows),
        "files": {name: str(path) for name, path in result.files.items()},
        "artifacts": files,
        "measurements": kept,
        "findings": [],
    }


def _align_patch(
    spec: str,
    *,
    dtype: str,
    data: Path | None,
    out: Path | None,
    limit: int | None,
    seed: int,
    changes: Sequence[str],
    contaminated: str,
    on_step: OnStage | None,
    on_data: OnData | None,
    together: Processes,
) -> dict[str, Any] | None:
    config = overridden(_config(limit, seed), changes)
    harms, benign = _training_data(data)
    found = patch_data(harms, benign, config, policy=contaminated)
    model = divided(_open_model(spec, "training", dtype), together)
    with _evidence(together) as (store, home):
        asked: list[object] = [limit, seed, *([list(changes)] if changes else [])]
        run = f"align-{digest(['patch', model.fingerprint, digest(harms), *asked])[:8]}"
        folder = out or home / "runs" / run / "patch"
        shipped = [shipped_origin("core-harms", harms), shipped_origin("core-benign", benign)]
        sheet = found.sheet(model, [file_origin(data)] if data else shipped, config)
        files = together.told(lambda: sheet.write(folder))
        if on_data:
            on_data(sheet)
        result = patch(
            model,
            harms=found.harms,
            benign=found.benign,
            held_out=[] if contaminated == "keep" else [*held_out("core-harms"), *held_out("core-benign")],
            out=folder,
            config=config,
            on_step=_watched(on_step),
        )
        if store is None:
            return None
        version = record_versions(store, model, result.path, spec, "patch", run, result.on)
        kept = {
            name: store.put_artifact(path, name=name, media_type="application/json", run=run).digest
            for name, path in {**training_records(folder), **files}.items()
        }
        _record_training(store, "patch", version, kept, result.data_digest, run)
    examples = ", ".join(f"{n} {kind}" for kind, n in result.groups.items())
    return {
        "run": run,
        kind_of(result.path): str(result.path),
        "version": version.id,
        "parent": version.parent,
        "data": result.data_digest,
        "losses": list(result.losses),
        "sentences": [
            f"trained on {examples} in {result.seconds:.0f} s",
            f"loss {result.losses[0]:.3f} → {result.losses[-1]:.3f}",
        ],
        "files": {name: str(path) for name, path in files.items()},
        "artifacts": kept,
        "measurements": [],
        "findings": [],
    }


@contextmanager
def _evidence(together: Processes) -> Iterator[tuple[Store | None, Path]]:
    """The store in the first process, which alone records, and the store's folder in all."""
    if not together.first:
        yield None, together.told(Path)
        return
    with Store.open() as store:
        yield store, together.told(lambda: store.home)


def training_records(folder: Path) -> dict[str, Path]:
    """Every stage's record under a recipe's folder, by name: settings, estimate, and the metrics of every step."""
    found = (p for p in folder.rglob("*.json") if p.name in RECORDS)
    return {str(p.relative_to(folder)).replace("/", "-"): p for p in sorted(found)}


def _watched(on_step: OnStage | None) -> OnPatch | None:
    """The patch's own progress as a stage's."""
    if on_step is None:
        return None
    return lambda seen: on_step(seen.stage, seen.step.step, seen.step.total, seen.step.loss)


def _record_training(
    store: Store, recipe: str, version: ModelVersion, artifacts: Mapping[str, str], rows: str, run: str
) -> None:
    """What a version was made of, so that it can be told later: recipe, what was trained, data, datasheet."""
    made = {"version": version.id, "trained": version.trained}
    body = {"recipe": recipe, **made, "data": rows, "artifacts": dict(artifacts)}
    store.append_once("training", body, run=run)


def _config(limit: int | None, seed: int) -> PatchConfig:
    config = PatchConfig(seed=seed)
    if limit is None:
        return config
    return replace(config, mix={k: replace(m, behaviours=limit) for k, m in config.mix.items()})


def _training_data(data: Path | None) -> tuple[Sequence[Case], Sequence[Case]]:
    """Harmful and benign cases: the suites' train split, or a file whose cases are tagged `harmful` or `benign`."""
    if data is None:
        return train_cases("core-harms"), train_cases("core-benign")
    cases = read_cases(data)
    harms, benign = ([c for c in cases if tag in c.tags] for tag in ("harmful", "benign"))
    if not harms or not benign:
        raise DataError(
            f"{data} does not say what to refuse and what to answer",
            expected="cases with the tag harmful and cases with the tag benign",
            got=f"{len(harms)} harmful, {len(benign)} benign",
        )
    return harms, benign


def _open_model(spec: str, for_: str, dtype: str = "float32") -> WhiteBox:
    given = {} if dtype == "float32" else {"dtype": dtype}
    if switched_on("ACCELERATE_USE_FSDP"):  # it shares out weights that lie on the CPU
        given["device"] = "cpu"
    model: Model = load(spec, **given)
    require(model, Capability.ACTIVATIONS, for_=for_)
    assert isinstance(model, WhiteBox)
    return model
