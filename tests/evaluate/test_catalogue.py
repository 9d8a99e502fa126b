"""The catalogue: well formed, complete, and exact about what is missing here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from fivefold.errors import DataError, UnknownNameError, UsageError
from fivefold.evaluate import catalogue, data
from fivefold.evaluate.catalogue import FILE, entry, names, outside, read, resolve, runnable
from fivefold.evaluate.outside import evaluate_outside
from fivefold.evaluate.suites import Suite
from fivefold.runtime.backends.scripted import load

QUOTED = """
mmlu mmlu_pro gpqa_diamond mmmu big_bench bbh hellaswag arc_easy arc_challenge winogrande livebench gsm8k
ifeval truthfulqa humaneval humaneval_plus mbpp mbpp_plus swe_bench_verified swe_bench_lite
swe_bench_multimodal terminal_bench mle_bench webarena visualwebarena gaia hcast harmbench strongreject xstest
agentharm agentdojo wmdp_bio wmdp_chem wmdp_cyber air_bench cyberseceval_injection cyberseceval_frr
gdm_self_reasoning gdm_stealth shade_arena agentic_misalignment sycophancy mask persona advanced_ai_risk
multijail kosbi square ailuminate bipia
"""


def test_every_evaluation_that_the_field_quotes_has_an_entry() -> None:
    assert sorted(set(QUOTED.split()) - set(names())) == []


@pytest.mark.parametrize("name", names())
def test_every_entry_is_complete(name: str) -> None:
    found = entry(name)
    assert found.name == name
    for text in (found.title, found.data, found.licence, found.cost, found.meaning, found.citation):
        assert text.strip() and "\n" not in text.strip()
    assert found.revision or found.runs in ("lm-eval", "nowhere") or name in ("livebench", "swe_bench_lite")


def test_what_was_not_checked_is_marked() -> None:
    assert any(e.unverified for e in outside().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licens": "MIT"}, "did you mean 'licence'"),
        ({"runs": "here"}, "runs"),
        ({"needs": ["dockers"]}, "unknown need"),
        ({"tasks": []}, "no tasks"),
        ({"runs": "nowhere"}, "without a note"),
        ({"sha256": "abc"}, "sha256"),
        ({"unverified": ["licens"]}, "names no field"),
        ({"safer": "up"}, "safer"),
    ],
)
def test_a_bad_entry_is_refused(change: dict[str, object], message: str) -> None:
    good = yaml.safe_load(FILE.read_text(encoding="utf-8"))["entries"]["bbh"]
    assert read(yaml.safe_dump({"version": 1, "entries": {"x": good}}))["x"].title == "BIG-Bench Hard"
    with pytest.raises(DataError, match=message):
        read(yaml.safe_dump({"version": 1, "entries": {"x": {**good, **change}}}))


def test_what_is_no_catalogue_is_refused() -> None:
    for text in ("entries: []", "[]", "version: 2\nentries: {}", "version: 1\nentries: {x: 3}"):
        with pytest.raises(DataError, match="catalogue"):
            read(text)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing on it."""
    for name in (data.VARIABLE, "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(catalogue, "_online", lambda: False)
    monkeypatch.setattr("fivefold.engine.sandbox.docker_missing", lambda: "docker is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_what_is_missing_is_said_exactly(bare: None) -> None:
    assert "FIVEFOLD_DATA is not set" in runnable("gsm8k")[0]
    assert runnable("swe_bench_verified") == [
        "the package inspect-evals is not installed: pip install 'inspect-evals[swe_bench]'",
        "docker is not installed",
        "the Hugging Face hub cannot be reached from here",
        "the internet cannot be reached from here",
    ]
    assert "OPENAI_API_KEY is not set" in runnable("agentharm")[-1]
    assert not any("KEY" in line for line in runnable("agentharm", own_judge=True))
    assert any("--model fivefold" in line and "--tasks kmmlu" in line for line in runnable("kmmlu"))
    assert "sb-cli" in runnable("swe_bench_multimodal")[0]


def test_a_name_resolves_or_says_what_to_do(bare: None, tmp_path: Path) -> None:
    assert isinstance(resolve("core-harms"), Suite)
    with pytest.raises(DataError, match="FIVEFOLD_DATA"):
        resolve("gsm8k")
    with pytest.raises(UsageError, match="cannot run here"):
        resolve("terminal-bench")
    with pytest.raises(UnknownNameError, match="did you mean 'gsm8k'"):
        resolve("gsm8")
    with pytest.raises(UsageError, match="cannot run here"):
        evaluate_outside(load("echo"), entry("swe_bench_multimodal"), log_dir=tmp_path)


def test_task_names_exist_in_inspect_evals() -> None:
    pytest.importorskip("inspect_evals", reason="inspect-evals is not installed: task names are as read in 0.26.0")
    from inspect_ai._util.entrypoints import ensure_entry_points
    from inspect_ai._util.registry import registry_find, registry_info

    ensure_entry_points("inspect_evals")
    known = {registry_info(task).name.rpartition("/")[2] for task in registry_find(lambda info: info.type == "task")}
    wanted = {task for e in outside().values() if e.runs == "inspect-evals" for task in e.tasks}
    assert wanted - known == set()


def test_agentdojo_runs_on_a_model_of_ours(tmp_path: Path) -> None:
    pytest.importorskip("inspect_evals", reason="inspect-evals is not installed")
    if lacking := runnable("agentdojo"):
        pytest.skip(lacking[0])
    result = evaluate_outside(load("comply"), entry("agentdojo"), log_dir=tmp_path, limit=2)
    security = result.find("agentdojo/injection_task_scorer/security")
    assert security is not None and security.n_scored == 2 and security.safer == "lower"
